// SPDX-License-Identifier: Apache-2.0
//
// inherited_socket.h - a socket that was made for this daemon by its starter.
//
// Android's init binds the sockets of a service's .rc file and passes each as
// an open file, whose number is in the environment: ANDROID_SOCKET_NAME for
// /dev/socket/NAME, with '_' for what is neither letter nor digit. systemd
// binds those of a socket unit and passes them as open files from 3 on,
// LISTEN_FDS of them, to the process LISTEN_PID.
#ifndef DAEMON_CONTROL_INHERITED_SOCKET_H_
#define DAEMON_CONTROL_INHERITED_SOCKET_H_

#include <string>

namespace dmu {

// The number of the open file for the socket at `path`, by its last component;
// -1 when the environment names none. Whether it is that socket is for
// Server::Adopt to find out.
int InheritedAndroidSocket(const std::string& path);

// The number of the open file that systemd passed to this process and that is
// bound to `path`, which is compared as it stands; -1 when there is none.
int InheritedSystemdSocket(const std::string& path);

// Whichever of the two there is; -1 without one.
int InheritedSocket(const std::string& path);

}  // namespace dmu

#endif  // DAEMON_CONTROL_INHERITED_SOCKET_H_
