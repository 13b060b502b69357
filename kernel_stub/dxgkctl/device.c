// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * /dev/vdxgkN and the escape that it carries.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "dxgkctl.h"

static const char *path = "/dev/vdxgk0";
static int descriptor = -1;

/* Room for the largest escape: one is enough, commands run one at a time. */
static union {
	struct vdxgk_escape escape;
	unsigned char bytes[sizeof(struct vdxgk_escape) + VDXGK_ESCAPE_MAX_DATA];
} buffer;

void device_path(const char *new_path)
{
	path = new_path;
}

/* 0, or the exit status after an error was put out. */
int device_ioctl(unsigned long request, void *argument)
{
	int ret;

	if (descriptor < 0)
		descriptor = open(path, O_RDWR | O_CLOEXEC);
	if (descriptor < 0)
		return output_error(EXIT_SYSTEM, "%s: %s", path,
				    strerror(errno));
	do {
		ret = ioctl(descriptor, request, argument);
	} while (ret < 0 && errno == EINTR);
	if (ret < 0)
		return output_error(EXIT_SYSTEM, "%s: %s", path,
				    strerror(errno));
	return EXIT_OK;
}

/* -1: nothing has been asked of the device yet. */
int device_descriptor(void)
{
	return descriptor;
}

/* A zeroed escape to be filled in. */
struct vdxgk_escape *escape_new(uint32_t command)
{
	memset(&buffer.escape, 0, sizeof(buffer.escape));
	buffer.escape.command = command;
	return &buffer.escape;
}

/* VDXGK_ESCAPE_MAX_DATA bytes that follow the escape. */
void *escape_data(void)
{
	return buffer.bytes + sizeof(struct vdxgk_escape);
}

/*
 * 0 with the NTSTATUS in *status, or the exit status after an error was put
 * out. A callback that returns nothing counts with what the backend said.
 */
int escape_call(size_t data_size, uint32_t *status)
{
	struct vdxgk_ioctl_escape request = {
		.data = (uintptr_t)&buffer,
		.size = sizeof(struct vdxgk_escape) + data_size,
	};
	int ret = device_ioctl(VDXGK_IOCTL_ESCAPE, &request);

	if (ret)
		return ret;
	*status = request.status;
	if ((int32_t)*status >= 0 && request.callback_status)
		*status = request.callback_status;
	return EXIT_OK;
}
