/* Stands in for FFmpeg or ffprobe, as if a video had taken it over, and tries what it must not be able to do. Each attempt is
 * a line of its log: what was tried, and whether it succeeded. Questions about its version are answered by the real one.
 *
 * The environment and the files are those of FFmpeg, so what to try is compiled in: attempts.h has pairs of a kind and an
 * argument, and where the real program is. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "attempts.h"

static const char *kind, *argument;

static void told(int succeeded) {
  int error = errno;
  fprintf(stderr, "[error] attempt: %s %s: %s\n", kind, argument,
          succeeded ? "SUCCEEDED" : strerror(error));
}

static int opens(const char *path, int flags) {
  int file = open(path, flags, 0600);
  if (file < 0) return 0;
  char byte;
  int well = (flags & O_ACCMODE) == O_RDONLY ? read(file, &byte, 1) >= 0 : write(file, "x", 1) == 1;
  close(file);
  return well;
}

static int reads_environment_of(int pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/environ", pid);
  return opens(path, O_RDONLY);
}

/* Of every process that can be guessed, because /proc itself cannot be listed. */
static int reads_environment(void) {
  for (int pid = 1; pid < 100000; pid++) {
    if (pid == getpid()) continue;
    if (reads_environment_of(pid)) return 1;
  }
  return 0;
}

static int connects(const char *host, int port, int type) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, host, &to.sin_addr);
  int s = socket(AF_INET, type, 0);
  if (s < 0) return 0;
  if (type == SOCK_DGRAM) return sendto(s, "x", 1, 0, (struct sockaddr *)&to, sizeof to) == 1;
  return connect(s, (struct sockaddr *)&to, sizeof to) == 0;
}

/* TCP Fast Open: the first piece of data connects. */
static int connects_with_data(const char *host, int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, host, &to.sin_addr);
  int s = socket(AF_INET, SOCK_STREAM, 0);
  return s >= 0 && sendto(s, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&to, sizeof to) == 1;
}

/* The kernel sends the owner of a descriptor a signal of one's choice. */
static int own_signals(int parent) {
  int ends[2];
  return pipe(ends) == 0 && fcntl(ends[0], F_SETOWN, parent) == 0 && fcntl(ends[0], F_SETSIG, SIGKILL) == 0;
}

/* An address that is not mapped shows that the process may be read. */
static int peeks(int parent) {
  char byte;
  struct iovec here = {&byte, 1}, there = {(void *)1, 1};
  return process_vm_readv(parent, &here, 1, &there, 1, 0) >= 0 || errno == EFAULT;
}

static int connects_locally(const char *path) {
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  strncpy(to.sun_path, path, sizeof to.sun_path - 1);
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  return s >= 0 && connect(s, (struct sockaddr *)&to, sizeof to) == 0;
}

static int forks(void) {
  int made = 0;
  for (int n = 0; n < 1000; n++) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    if (child > 0) made++;
  }
  return made;
}

static int fills_memory(void) {
  size_t piece = (size_t)1 << 30;
  for (int n = 0; n < 4096; n++) {
    if (mmap(NULL, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
      return 0;
  }
  return 1;
}

/* A file with a hole, so that the disk of the test stays free. */
static int fills_disk(off_t size) {
  signal(SIGXFSZ, SIG_IGN);
  int file = open("fill", O_RDWR | O_CREAT, 0600);
  int well = file >= 0 && ftruncate(file, size) == 0;
  int error = errno;
  unlink("fill");
  errno = error;
  return well;
}

static void attempt(int parent) {
  int port = atoi(argument);
#define TRY(name, expression) if (!strcmp(kind, name)) { errno = 0; told(expression); }
  TRY("read", opens(argument, O_RDONLY))
  TRY("write", opens(argument, O_WRONLY | O_CREAT))
  TRY("list", opendir(argument) != NULL)
  TRY("environment", reads_environment())
  TRY("worker", reads_environment_of(parent))
  TRY("tcp", connects("127.0.0.1", port, SOCK_STREAM))
  TRY("udp", connects("127.0.0.1", port, SOCK_DGRAM))
  TRY("unix", connects_locally(argument))
  TRY("fork", forks() > 0)
  TRY("memory", fills_memory())
  TRY("disk", fills_disk(strtoll(argument, NULL, 10)))
  TRY("ptrace", ptrace(PTRACE_SEIZE, parent, 0, 0) == 0)
  TRY("peek", peeks(parent))
  TRY("signal", kill(parent, 0) == 0)
  TRY("survive", prctl(PR_SET_PDEATHSIG, 0) == 0)
  TRY("owner", own_signals(parent))
  TRY("truncate", truncate(argument, 1) == 0)
  TRY("times", utimensat(AT_FDCWD, argument, NULL, 0) == 0)
  TRY("fastopen", connects_with_data("127.0.0.1", port))
  TRY("ring", syscall(SYS_io_uring_setup, 1, NULL) >= 0 || errno == EFAULT)
  TRY("memfd", syscall(SYS_memfd_create, "x", 0) >= 0)
  TRY("namespace", syscall(SYS_unshare, 0x10000000) == 0)
}

/* The port of the input, if it is read from a server. */
static void input_port(int count, char **arguments, char *port) {
  for (int n = 1; n < count; n++) sscanf(arguments[n], "http://127.0.0.1:%15[0-9]/", port);
}

int main(int count, char **arguments) {
  const char *question = arguments[count - 1];
  if (!strcmp(question, "-version") || !strcmp(question, "-encoders") || !strcmp(question, "-filters")) {
    execv(REAL, arguments);
    return 1;
  }
  for (size_t n = 0; n < sizeof ATTEMPTS / sizeof *ATTEMPTS; n++) {
    kind = ATTEMPTS[n][0];
    argument = ATTEMPTS[n][1];
    char port[16] = "";
    if (!strcmp(argument, "INPUT")) {
      input_port(count, arguments, port);
      argument = port;
    }
    attempt(getppid());
    if (!strcmp(kind, "wait"))
      for (;;) pause();
  }
  return 1;
}
