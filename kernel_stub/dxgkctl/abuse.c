// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * What a hostile process tries with /dev/vdxgkN and a user mode view: all of
 * it must fail, and harm nobody.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dxgkctl.h"

#define PAGE 4096

/* mmap(2) of the device by hand, at any offset. */
static bool maps_by_hand(void)
{
	static const off_t offsets[] = { 0, PAGE, 1 << 20, 1ll << 40 };
	size_t i;

	for (i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
		void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
				device_descriptor(), offsets[i]);

		if (at != MAP_FAILED)
			return true;
	}
	return false;
}

/* Whether a child can still read the view. */
static bool child_has(const volatile unsigned char *base)
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(base[0] & 0); /* or SIGSEGV */
	return child > 0 && waitpid(child, &status, 0) == child &&
	       WIFEXITED(status);
}

int command_abuse(const struct options *options)
{
	DXGKARGCB_MAP_PHYSICAL_MEMORY args;
	struct options view = *options;
	unsigned char *base;
	uint32_t status, id;
	uint64_t object;
	bool ended;
	int ret = options_handle(options, 0, "OBJECT", &object);

	if (ret)
		return ret;
	view.user = true;
	ret = view_map(&view, object, options->size, &args, &id, &status);
	if (ret)
		return ret;
	if ((int32_t)status < 0)
		return output_status(status);
	base = args.pMappedAddress;
	ret = output_status(status);
	output_bool("mapped_by_hand", maps_by_hand());
	output_bool("split", !munmap(base + PAGE, PAGE));
	output_bool("moved", mremap(base, args.Size, args.Size,
				    MREMAP_MAYMOVE | MREMAP_FIXED,
				    base + (1ll << 32)) != MAP_FAILED);
	output_bool("grown", mremap(base, args.Size, 2 * args.Size,
				    MREMAP_MAYMOVE) != MAP_FAILED);
	output_bool("inherited", child_has(base));
	/* Its own right: to give all of it up without a word. */
	ended = !munmap(base, args.Size);
	output_bool("ended", ended);
	return ret;
}

/* Read a byte of this process: of a view that may have been taken away. */
int command_peek(const struct options *options)
{
	uint64_t address;
	int ret = options_handle(options, 0, "ADDRESS", &address);

	if (ret)
		return ret;
	output_number("byte",
		      *(const volatile unsigned char *)(uintptr_t)address);
	return output_status(0);
}
