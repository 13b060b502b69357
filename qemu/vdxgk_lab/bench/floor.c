// SPDX-License-Identifier: Apache-2.0
/*
 * The floor under a vfio-user server in whatever language: an echo over an
 * AF_UNIX stream socket with messages of the same sizes, and the client that
 * measures both the echo and the server with the same code.
 *
 *	floor echo PATH			serves one connection after another
 *	floor client PATH echo|vfio OP FIRST COUNT WINDOW BAR:OFFSET
 *	floor pages COUNT		copies so many pages, one by one in random order
 *
 * OP is read, write, map or unmap; FIRST is the number of mappings that are
 * there before (the others are made first for unmap).  WINDOW messages are
 * sent, each by a call of its own, then their replies are taken; 1 is the
 * synchronous case.  The client prints nanoseconds for COUNT operations, and
 * "pages" those for one copy of all, between files of memory like a guest's.
 *
 * Messages: vfio-user specification, "Header", "Commands".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define VERSION 1
#define DMA_MAP 2
#define DMA_UNMAP 3
#define DEVICE_GET_INFO 4
#define REGION_READ 9
#define REGION_WRITE 10
#define REPLY 1u
#define PAGE 4096
#define MAX_PAGES 65535

struct header {
	uint16_t id, command;
	uint32_t size, flags, error;
};

struct access {
	struct header header;
	uint64_t offset;
	uint32_t region, count;
	uint32_t data;
};

struct map {
	struct header header;
	uint32_t argsz, flags;
	uint64_t offset, address, size;
};

struct unmap {
	struct header header;
	uint32_t argsz, flags;
	uint64_t address, size;
};

struct info {
	struct header header;
	uint32_t argsz, flags, regions, irqs;
};

union message {
	struct header header;
	struct access access;
	struct map map;
	struct unmap unmap;
	struct info info;
	char bytes[4096];
};

static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_socket(const char *path, struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket");
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(address->sun_path)) {
		errno = ENAMETOOLONG;
		fail(path);
	}
	strcpy(address->sun_path, path);
	return fd;
}

/* One message and the descriptor that may come with it, which is closed.
 * Returns 0 at the end of the connection. */
static int receive(int fd, union message *message)
{
	char control[CMSG_SPACE(sizeof(int))];
	size_t have = 0, size = sizeof(struct header);

	while (have < size) {
		struct iovec part = { message->bytes + have, size - have };
		struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1 };
		struct cmsghdr *c;
		ssize_t got;

		/* As a server that knows nothing of the sizes would: as much
		 * as there is, but the echo never asks for two messages. */
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
		if (got < 0)
			fail("recvmsg");
		if (!got)
			return 0;
		for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
			close(*(int *)CMSG_DATA(c));
		have += got;
		if (have >= sizeof(struct header))
			size = message->header.size;
		if (size > sizeof(*message)) {
			errno = EMSGSIZE;
			fail("message");
		}
	}
	return 1;
}

static uint32_t reply_size(const union message *request)
{
	switch (request->header.command) {
	case REGION_READ:
		return sizeof(struct header) + 20;
	case REGION_WRITE:
		return sizeof(struct header) + 16;
	case DMA_UNMAP:
		return sizeof(struct unmap);
	default:
		return sizeof(struct header);
	}
}

/* Requests have a fixed size for each connection, told by the first byte that
 * the client sends, so that the echo needs one receive for each. */
static void echo(const char *path)
{
	struct sockaddr_un address;
	int listening = open_socket(path, &address);

	if (bind(listening, (void *)&address, sizeof(address)) ||
	    listen(listening, 1))
		fail(path);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(listening, NULL, NULL);
		unsigned char request_size;
		union message message;

		if (fd < 0)
			fail("accept");
		while (read(fd, &request_size, 1) == 1) {
			char control[CMSG_SPACE(sizeof(int))];
			struct iovec part = { message.bytes, request_size };

			for (;;) {
				struct msghdr m = { .msg_iov = &part,
						    .msg_iovlen = 1 };
				struct cmsghdr *c;
				ssize_t got;

				m.msg_control = control;
				m.msg_controllen = sizeof(control);
				got = recvmsg(fd, &m,
					      MSG_CMSG_CLOEXEC | MSG_WAITALL);
				if (got != request_size)
					break;
				for (c = CMSG_FIRSTHDR(&m); c;
				     c = CMSG_NXTHDR(&m, c))
					close(*(int *)CMSG_DATA(c));
				message.header.size = reply_size(&message);
				message.header.flags = REPLY;
				if (send(fd, &message, message.header.size,
					 MSG_NOSIGNAL) < 0)
					break;
			}
			break;
		}
		close(fd);
	}
}

struct client {
	int fd;
	int memory;
	uint16_t id;
	uint32_t bar;
	uint64_t offset;
};

static void post(struct client *client, union message *message, int descriptor)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec part = { message, message->header.size };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1 };

	message->header.id = client->id++;
	if (descriptor >= 0) {
		struct cmsghdr *c;

		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &descriptor, sizeof(int));
	}
	if (sendmsg(client->fd, &m, MSG_NOSIGNAL) != (ssize_t)message->header.size)
		fail("sendmsg");
}

/* The replies are taken as many as come at once. */
static void take_replies(struct client *client, unsigned int count)
{
	static char buffer[65536];
	static size_t have;

	while (count) {
		size_t at = 0;
		ssize_t got = recv(client->fd, buffer + have,
				   sizeof(buffer) - have, 0);

		if (got <= 0)
			fail("recv");
		have += got;
		while (have - at >= sizeof(struct header)) {
			struct header header;

			memcpy(&header, buffer + at, sizeof(header));
			if (have - at < header.size)
				break;
			if (header.error) {
				errno = header.error;
				fail("the server refused");
			}
			at += header.size;
			count--;
		}
		memmove(buffer, buffer + at, have - at);
		have -= at;
	}
}

static void put(struct client *client, uint16_t command, unsigned int number)
{
	union message message = { 0 };
	uint64_t page = (uint64_t)(number % MAX_PAGES) * PAGE;
	int descriptor = -1;

	message.header.command = command;
	switch (command) {
	case REGION_READ:
	case REGION_WRITE:
		message.header.size = sizeof(struct header) + 16 +
				      (command == REGION_WRITE ? 4 : 0);
		message.access.offset = client->offset;
		message.access.region = client->bar;
		message.access.count = 4;
		break;
	case DMA_MAP:
		message.header.size = sizeof(struct map);
		message.map.argsz = sizeof(struct map) - sizeof(struct header);
		message.map.flags = 3;
		message.map.offset = page;
		message.map.address = (1ull << 32) + page;
		message.map.size = PAGE;
		descriptor = client->memory;
		break;
	case DMA_UNMAP:
		message.header.size = sizeof(struct unmap);
		message.unmap.argsz =
			sizeof(struct unmap) - sizeof(struct header);
		message.unmap.address = (1ull << 32) + page;
		message.unmap.size = PAGE;
		break;
	}
	post(client, &message, descriptor);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t measure(struct client *client, uint16_t command,
			unsigned int first, unsigned int count,
			unsigned int window)
{
	uint64_t start = now();
	unsigned int sent = 0, done = 0;

	while (done < count) {
		unsigned int batch = count - sent < window ? count - sent : window;
		unsigned int i;

		for (i = 0; i < batch; i++)
			put(client, command, first + sent++);
		take_replies(client, batch);
		done += batch;
	}
	return now() - start;
}

static void negotiate(struct client *client)
{
	static const char json[] = "{\"capabilities\":{\"max_msg_fds\":8}}";
	union message message = { 0 };

	message.header.command = VERSION;
	message.header.size = sizeof(struct header) + 4 + sizeof(json);
	memcpy(message.bytes + sizeof(struct header) + 4, json, sizeof(json));
	post(client, &message, -1);
	if (!receive(client->fd, &message))
		fail("VERSION");
	/* As QEMU does once its memory is mapped: what is mapped from now on
	 * is the guest's IOMMU's. */
	memset(&message, 0, sizeof(message));
	message.header.command = DEVICE_GET_INFO;
	message.header.size = sizeof(message.info);
	message.info.argsz = sizeof(message.info) - sizeof(struct header);
	post(client, &message, -1);
	if (!receive(client->fd, &message))
		fail("DEVICE_GET_INFO");
}

static unsigned char *memory_file(size_t size)
{
	int fd = memfd_create("bench", MFD_CLOEXEC);
	unsigned char *memory;

	if (fd < 0 || ftruncate(fd, size))
		fail("memfd");
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	memset(memory, 1, size);
	return memory;
}

/* Where each page is: any order will do that no prefetcher foresees. */
static size_t *shuffled(size_t count, uint64_t random)
{
	size_t *order = malloc(count * sizeof(*order)), i, other, kept;

	if (!order)
		fail("malloc");
	for (i = 0; i < count; i++)
		order[i] = i * PAGE;
	for (i = count - 1; i; i--) {
		random = random * 6364136223846793005ull + 1442695040888963407ull;
		other = (random >> 33) % (i + 1);
		kept = order[i];
		order[i] = order[other];
		order[other] = kept;
	}
	return order;
}

static void pages(size_t count)
{
	unsigned char *source = memory_file(count * PAGE), *target = memory_file(count * PAGE);
	size_t *from = shuffled(count, 1), *to = shuffled(count, 2), i;
	uint64_t start = 0;
	int round;

	for (round = 0; round < 2; round++) { /* the first does not count */
		start = now();
		for (i = 0; i < count; i++)
			memcpy(target + to[i], source + from[i], PAGE);
	}
	printf("%llu\n", (unsigned long long)(now() - start));
}

int main(int argc, char **argv)
{
	static const char *const names[] = { "read", "write", "map", "unmap" };
	static const uint16_t commands[] = { REGION_READ, REGION_WRITE, DMA_MAP,
					     DMA_UNMAP };
	static const unsigned char sizes[] = { 32, 36, 48, 40 };
	struct sockaddr_un address;
	struct client client = { 0 };
	unsigned int op, count, window, first;
	int is_echo;

	if (argc == 3 && !strcmp(argv[1], "echo")) {
		echo(argv[2]);
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "pages")) {
		pages(strtoul(argv[2], NULL, 0));
		return 0;
	}
	if (argc != 9 || strcmp(argv[1], "client")) {
		fputs("usage: floor echo PATH\n"
		      "       floor client PATH echo|vfio OP FIRST COUNT WINDOW BAR:OFFSET\n"
		      "       floor pages COUNT\n",
		      stderr);
		return 2;
	}
	is_echo = !strcmp(argv[3], "echo");
	for (op = 0; op < 4 && strcmp(names[op], argv[4]); op++)
		;
	if (op == 4) {
		fprintf(stderr, "floor: no operation %s\n", argv[4]);
		return 2;
	}
	first = strtoul(argv[5], NULL, 0);
	count = strtoul(argv[6], NULL, 0);
	window = strtoul(argv[7], NULL, 0);
	client.bar = strtoul(argv[8], NULL, 0);
	client.offset = strtoul(strchr(argv[8], ':') + 1, NULL, 0);
	client.fd = open_socket(argv[2], &address);
	if (connect(client.fd, (void *)&address, sizeof(address)))
		fail(argv[2]);
	client.memory = memfd_create("bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (client.memory < 0 || ftruncate(client.memory, (off_t)MAX_PAGES * PAGE) ||
	    fcntl(client.memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		fail("memfd");
	if (is_echo) {
		if (write(client.fd, &sizes[op], 1) != 1)
			fail("write");
	} else {
		negotiate(&client);
		/* So many mappings are there already: does it stay flat? */
		if (commands[op] == DMA_MAP && first)
			measure(&client, DMA_MAP, 0, first, 64);
		if (commands[op] == DMA_UNMAP)
			measure(&client, DMA_MAP, 0, first + count, 64);
	}
	printf("%llu\n", (unsigned long long)measure(&client, commands[op], first,
						      count, window));
	return 0;
}
