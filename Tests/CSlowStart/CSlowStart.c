#include "CSlowStart.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

int pv_slow_start(int gate) {
  pid_t child = fork();
  if (child != 0) return child;
  struct pollfd entry = {.fd = gate, .events = POLLIN};
  if (poll(&entry, 1, 60000) == 1) execl("/bin/true", "true", (char *)0);
  _exit(9);
}

int pv_slow_start_end(int child, int milliseconds) {
  int status;
  for (int i = 0; i < milliseconds; i++) {
    if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    usleep(1000);
  }
  return -1;
}
