// SPDX-License-Identifier: Apache-2.0
//
// role.h - what a client of the control socket may do.
//
// Who connects is told by the kernel (SO_PEERCRED, SO_PEERGROUPS), once, when
// it connects: root and the daemon's own user may do everything, members of the
// groups the daemon was given as much as their group, others nothing.
#ifndef DAEMON_CONTROL_ROLE_H_
#define DAEMON_CONTROL_ROLE_H_

#include <sys/types.h>

#include <span>

namespace dmu {

// Each may do what those before it may.
enum class Role {
  kNone,
  kLook,   // status, watch
  kMerge,  // start, pause and throttle merges
  kServe,  // attach and detach devices
};

const char* RoleName(Role role);

struct RoleGroups {
  static constexpr gid_t kNobody = static_cast<gid_t>(-1);

  gid_t look = kNobody;
  gid_t merge = kNobody;
  gid_t serve = kNobody;

  bool any() const {
    return look != kNobody || merge != kNobody || serve != kNobody;
  }
};

// Of a client with this user and these groups, for a daemon of user `self`.
Role RoleOf(uid_t user, std::span<const gid_t> member_of, uid_t self,
            const RoleGroups& groups);

// Of the process at the other end of a Unix socket; kNone when the kernel does
// not say.
Role PeerRole(int fd, const RoleGroups& groups);

}  // namespace dmu

#endif  // DAEMON_CONTROL_ROLE_H_
