// SPDX-License-Identifier: Apache-2.0
//
// journal_listen.cc - a socket in the journal's place, for a machine without
// one: binds PATH, says "ready", then prints what comes, each datagram's lines
// behind each other, until it is killed.
// Usage: journal_listen PATH
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "daemon/io/unique_fd.h"

int main(int argc, char** argv) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (argc != 2 || strlen(argv[1]) >= sizeof(address.sun_path)) return 2;
  memcpy(address.sun_path, argv[1], strlen(argv[1]));
  const dmu::UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) !=
      0) {
    perror(argv[1]);
    return 1;
  }
  const char* say = "ready";
  char bytes[4096];
  for (;;) {
    puts(say);
    fflush(stdout);
    const ssize_t got = recv(fd.get(), bytes, sizeof(bytes) - 1, 0);
    if (got < 0) return 1;
    bytes[got] = '\0';
    for (char& c : bytes) c = c == '\n' ? ' ' : c;
    say = bytes;
  }
}
