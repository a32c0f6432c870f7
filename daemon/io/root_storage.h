// SPDX-License-Identifier: Apache-2.0
//
// root_storage.h - what a daemon needs below the root file system.
//
// There is nothing to fall back on: a page of the daemon that is not in memory
// would be read from a device that the daemon itself serves, and who ends it
// ends the machine. So all memory is locked, there and to come, and taken at
// once; the file systems of the moment stay as they are for this process (an
// initial ramdisk is emptied when the real root is mounted); and it asks to be
// left alive, by the memory management and by systemd at shutdown.
#ifndef DAEMON_IO_ROOT_STORAGE_H_
#define DAEMON_IO_ROOT_STORAGE_H_

namespace dmu {

// Locks memory, detaches the mounts, turns the first letter of `name`
// (argv[0], written in place) into '@': the mark by which systemd tells the
// daemons of root storage (systemd.io/ROOT_STORAGE_DAEMONS). Must come before
// what is allocated at start. False, with what failed logged, when memory
// cannot be locked or the mounts not be detached; the rest is logged as a
// warning.
bool EnterRootStorage(char* name);

}  // namespace dmu

#endif  // DAEMON_IO_ROOT_STORAGE_H_
