// SPDX-License-Identifier: Apache-2.0
//
// android_client - talks to the socket of Android's commands as Android's
// client does: one connection, one send() for a command, one recv() for its
// answer.
//
// usage: android_client SOCKET COMMAND...
//
// Prints each answer in a line of its own, "(closed)" when the session ended
// instead. "detach" and "stop" have none.
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int Fail(const char* what) {
  perror(what);
  return 1;
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: android_client SOCKET COMMAND...\n");
    return 2;
  }
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[1]);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address),
                        sizeof(address)) != 0) {
    return Fail(argv[1]);
  }
  for (int i = 2; i < argc; ++i) {
    const size_t length = strlen(argv[i]);
    if (send(fd, argv[i], length, MSG_NOSIGNAL) !=
        static_cast<ssize_t>(length)) {
      if (errno != EPIPE) return Fail("send");
      puts("(closed)");
      break;
    }
    if (strcmp(argv[i], "detach") == 0 || strcmp(argv[i], "stop") == 0) {
      continue;
    }
    char answer[512];
    const ssize_t got = recv(fd, answer, sizeof(answer), 0);
    if (got < 0 && errno != ECONNRESET) return Fail("recv");
    if (got <= 0) {
      puts("(closed)");
      break;
    }
    printf("%.*s\n", static_cast<int>(got), answer);
  }
  close(fd);
  return 0;
}
