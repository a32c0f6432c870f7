// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/role.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace dmu {

const char* RoleName(Role role) {
  switch (role) {
    case Role::kNone:
      return "nothing";
    case Role::kLook:
      return "look";
    case Role::kMerge:
      return "merge";
    case Role::kServe:
      return "serve";
  }
  return "?";
}

Role RoleOf(uid_t user, std::span<const gid_t> member_of, uid_t self,
            const RoleGroups& groups) {
  if (user == 0 || user == self) return Role::kServe;
  const auto is_in = [member_of](gid_t group) {
    return group != RoleGroups::kNobody &&
           std::find(member_of.begin(), member_of.end(), group) !=
               member_of.end();
  };
  if (is_in(groups.serve)) return Role::kServe;
  if (is_in(groups.merge)) return Role::kMerge;
  if (is_in(groups.look)) return Role::kLook;
  return Role::kNone;
}

Role PeerRole(int fd, const RoleGroups& groups) {
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return Role::kNone;
  }
  // The supplementary ones; with too little room the kernel says how much.
  std::vector<gid_t> member_of(32);
  length = static_cast<socklen_t>(member_of.size() * sizeof(gid_t));
  int result =
      getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, member_of.data(), &length);
  if (result != 0 && length > member_of.size() * sizeof(gid_t)) {
    member_of.resize(length / sizeof(gid_t));
    result =
        getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, member_of.data(), &length);
  }
  member_of.resize(result == 0 ? length / sizeof(gid_t) : 0);
  member_of.push_back(peer.gid);
  return RoleOf(peer.uid, member_of, geteuid(), groups);
}

}  // namespace dmu
