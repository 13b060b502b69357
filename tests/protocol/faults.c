// SPDX-License-Identifier: Apache-2.0
/*
 * Makes system calls of a process fail: preloaded, it stands between the process
 * and the C library's wrappers, and does what a page shared with a test says.
 *
 * The page is the file that FAULTS names; struct page below, and fault_injection.py,
 * say what is in it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <poll.h>
#include <unistd.h>

struct page {
	int32_t armed;
	int32_t error;	/* errno; 0: the transfer is shortened to one byte */
	int32_t skip;	/* so many calls that fit pass first */
	int32_t count;	/* so many fail then */
	int32_t hits;	/* of which so many did */
	char call[32];
	char file[84];	/* part of the name of the call's file; empty for any */
	char seen[3960];	/* names of calls that were made, each with a blank behind it */
};

static struct page *page;

__attribute__((constructor)) static void open_page(void)
{
	const char *path = getenv("FAULTS");
	int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	page = (void *)syscall(SYS_mmap, NULL, sizeof(*page), PROT_READ | PROT_WRITE,
			       MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		page = NULL;
	syscall(SYS_close, fd);
}

/* A socket's own path, or what the kernel calls the file. */
static void name_of(int fd, char *name, size_t size)
{
	struct sockaddr_un address = {};
	socklen_t length = sizeof(address) - 1;
	char link[40];
	long count;

	if (!syscall(SYS_getsockname, fd, &address, &length) &&
	    address.sun_family == AF_UNIX && address.sun_path[0]) {
		snprintf(name, size, "%s", address.sun_path);
		return;
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	count = syscall(SYS_readlink, link, name, size - 1);
	name[count < 0 ? 0 : count] = 0;
}

static void see(const char *call)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	char word[34];

	snprintf(word, sizeof(word), "%s ", call);
	pthread_mutex_lock(&lock);
	if (!strstr(page->seen, word) &&
	    strlen(page->seen) + strlen(word) < sizeof(page->seen))
		strcat(page->seen, word);
	pthread_mutex_unlock(&lock);
}

/* Whether this call is to fail, or to be short; path where there is no descriptor. */
static int chosen(const char *call, int fd, const char *path)
{
	char name[4096];
	int saved = errno;

	if (!page)
		return 0;
	see(call);
	if (!__atomic_load_n(&page->armed, __ATOMIC_ACQUIRE) || strcmp(call, page->call))
		return 0;
	if (page->file[0]) {
		if (path)
			snprintf(name, sizeof(name), "%s", path);
		else
			name_of(fd, name, sizeof(name));
		errno = saved;
		if (!strstr(name, page->file))
			return 0;
	}
	if (__atomic_fetch_sub(&page->skip, 1, __ATOMIC_ACQ_REL) > 0)
		return 0;
	if (__atomic_fetch_sub(&page->count, 1, __ATOMIC_ACQ_REL) <= 0)
		return 0;
	__atomic_fetch_add(&page->hits, 1, __ATOMIC_ACQ_REL);
	return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* glibc is told that these are there to be written, and so gcc is. */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

/* Calls that fail or not. */
#define FAIL(call, fd, path, failed)                                   \
	do {                                                           \
		if (chosen(call, fd, path)) {                          \
			errno = page->error;                           \
			return failed;                                 \
		}                                                      \
	} while (0)

/* Calls that transfer: they fail, or do less than asked. */
#define TRANSFER(call, fd, size)                                       \
	do {                                                           \
		if (chosen(call, fd, NULL)) {                          \
			if (page->error) {                             \
				errno = page->error;                   \
				return -1;                             \
			}                                              \
			size = size ? 1 : 0;                           \
		}                                                      \
	} while (0)

int socket(int domain, int type, int protocol)
{
	FAIL("socket", -1, NULL, -1);
	return REAL(socket)(domain, type, protocol);
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	FAIL("bind", -1, ((const struct sockaddr_un *)address)->sun_path, -1);
	return REAL(bind)(fd, address, length);
}

int listen(int fd, int backlog)
{
	FAIL("listen", fd, NULL, -1);
	return REAL(listen)(fd, backlog);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	FAIL("accept4", fd, NULL, -1);
	return REAL(accept4)(fd, address, length, flags);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
	FAIL("setsockopt", fd, NULL, -1);
	return REAL(setsockopt)(fd, level, option, value, length);
}

int shutdown(int fd, int how)
{
	FAIL("shutdown", fd, NULL, -1);
	return REAL(shutdown)(fd, how);
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
	TRANSFER("recvfrom", fd, size);
	return REAL(recv)(fd, data, size, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
	TRANSFER("sendto", fd, size);
	return REAL(send)(fd, data, size, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	struct msghdr less = *message;
	struct iovec part = *message->msg_iov;
	ssize_t count;

	TRANSFER("recvmsg", fd, part.iov_len);
	less.msg_iov = &part;
	less.msg_iovlen = 1;
	count = REAL(recvmsg)(fd, &less, flags);
	message->msg_controllen = less.msg_controllen;
	message->msg_namelen = less.msg_namelen;
	message->msg_flags = less.msg_flags;
	return count;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
	     struct timespec *timeout)
{
	size_t whole = messages->msg_hdr.msg_iov->iov_len, part = whole;
	int received;

	TRANSFER("recvmmsg", fd, part);
	if (part < whole)
		count = 1;
	messages->msg_hdr.msg_iov->iov_len = part;
	received = REAL(recvmmsg)(fd, messages, count, flags, timeout);
	messages->msg_hdr.msg_iov->iov_len = whole;
	return received;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	struct msghdr less = *message;
	struct iovec part = *message->msg_iov;

	TRANSFER("sendmsg", fd, part.iov_len);
	less.msg_iov = &part;
	less.msg_iovlen = 1;
	return REAL(sendmsg)(fd, &less, flags);
}

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
	FAIL("poll", count ? fds[count - 1].fd : -1, NULL, -1);
	return REAL(poll)(fds, count, timeout);
}

ssize_t read(int fd, void *data, size_t size)
{
	TRANSFER("read", fd, size);
	return REAL(read)(fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size)
{
	TRANSFER("write", fd, size);
	return REAL(write)(fd, data, size);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset)
{
	TRANSFER("pread64", fd, size);
	return REAL(pread64)(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
	TRANSFER("pwrite64", fd, size);
	return REAL(pwrite64)(fd, data, size, offset);
}

int open64(const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = va_arg(arguments, mode_t);
	va_end(arguments);
	FAIL("openat", -1, path, -1);
	return REAL(open64)(path, flags, mode);
}

int close(int fd)
{
	int failed = chosen("close", fd, NULL);
	int result = REAL(close)(fd);

	if (!failed)
		return result;
	errno = page->error; /* Linux has let go of the descriptor nevertheless */
	return -1;
}

int fcntl64(int fd, int command, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, command);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	FAIL("fcntl", fd, NULL, -1);
	return REAL(fcntl64)(fd, command, argument);
}

int fstat64(int fd, struct stat64 *status)
{
	FAIL("fstat", fd, NULL, -1);
	return REAL(fstat64)(fd, status);
}

int fchmod(int fd, mode_t mode)
{
	FAIL("fchmod", fd, NULL, -1);
	return REAL(fchmod)(fd, mode);
}

int flock(int fd, int operation)
{
	int (*real)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");

	FAIL("flock", fd, NULL, -1);
	return real(fd, operation);
}

int memfd_create(const char *name, unsigned int flags)
{
	FAIL("memfd_create", -1, name, -1);
	return REAL(memfd_create)(name, flags);
}

int ftruncate64(int fd, off64_t length)
{
	FAIL("ftruncate", fd, NULL, -1);
	return REAL(ftruncate64)(fd, length);
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset)
{
	FAIL("mmap", fd, NULL, MAP_FAILED);
	return REAL(mmap64)(address, size, protection, flags, fd, offset);
}

int madvise(void *address, size_t size, int advice)
{
	FAIL("madvise", -1, NULL, -1);
	return REAL(madvise)(address, size, advice);
}

int eventfd(unsigned int value, int flags)
{
	int (*real)(unsigned int, int) = (int (*)(unsigned int, int))dlsym(RTLD_NEXT, "eventfd");

	FAIL("eventfd2", -1, NULL, -1);
	return real(value, flags);
}

int eventfd_write(int fd, uint64_t value)
{
	int (*real)(int, uint64_t) = (int (*)(int, uint64_t))dlsym(RTLD_NEXT, "eventfd_write");

	FAIL("eventfd_write", fd, NULL, -1);
	return real(fd, value);
}

int pipe2(int fds[2], int flags)
{
	FAIL("pipe2", -1, NULL, -1);
	return REAL(pipe2)(fds, flags);
}

int epoll_create1(int flags)
{
	FAIL("epoll_create1", -1, NULL, -1);
	return REAL(epoll_create1)(flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
	if (operation == EPOLL_CTL_ADD) /* the others need nothing that may lack */
		FAIL("epoll_ctl", fd, NULL, -1);
	return REAL(epoll_ctl)(epoll, operation, fd, event);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
	FAIL("epoll_wait", epoll, NULL, -1);
	return REAL(epoll_wait)(epoll, events, most, timeout);
}

int unlink(const char *path)
{
	FAIL("unlink", -1, path, -1);
	return REAL(unlink)(path);
}

ssize_t readlink(const char *restrict path, char *restrict target, size_t size)
{
	FAIL("readlink", -1, path, -1);
	return REAL(readlink)(path, target, size);
}

int pthread_create(pthread_t *restrict thread, const pthread_attr_t *restrict attributes,
		   void *(*start)(void *), void *restrict argument)
{
	/* The error is the result; errno stays. */
	if (chosen("clone3", -1, NULL))
		return page->error;
	return REAL(pthread_create)(thread, attributes, start, argument);
}
