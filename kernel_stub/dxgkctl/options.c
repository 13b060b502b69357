// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Options of all commands.  Names of enumerations may be given as numbers,
 * so that values outside of them can be tried.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "dxgkctl.h"

struct name {
	const char *name;
	uint32_t value;
};

static const struct name types[] = {
	{ "mdl", DXGK_PHYSICAL_MEMORY_TYPE_MDL },
	{ "contiguous", DXGK_PHYSICAL_MEMORY_TYPE_CONTIGUOUS_MEMORY },
	{ "section", DXGK_PHYSICAL_MEMORY_TYPE_SECTION },
	{ "io-space", DXGK_PHYSICAL_MEMORY_TYPE_IO_SPACE },
	{ NULL, 0 },
};

static const struct name caches[] = {
	{ "non-cached", DXGK_MEMORY_CACHING_TYPE_NON_CACHED },
	{ "cached", DXGK_MEMORY_CACHING_TYPE_CACHED },
	{ "write-combined", DXGK_MEMORY_CACHING_TYPE_WRITE_COMBINED },
	{ "uncached", DXGK_MEMORY_CACHING_TYPE_NON_CACHED },
	{ "wc", DXGK_MEMORY_CACHING_TYPE_WRITE_COMBINED },
	{ NULL, 0 },
};

static const struct name formats[] = {
	{ "xrgb8888", VDXGK_FORMAT_XRGB8888 },
	{ "argb8888", VDXGK_FORMAT_ARGB8888 },
	{ "rgb565", VDXGK_FORMAT_RGB565 },
	{ NULL, 0 },
};

static const struct name accesses[] = {
	{ "kernel", DXGK_ACCESS_MODE_KERNEL_MODE },
	{ "user", DXGK_ACCESS_MODE_USER_MODE },
	{ NULL, 0 },
};

enum {
	OPTION_NUMBER = 256, /* + index into numbers[] */
	OPTION_FLAG = 512,   /* + index into flags[] */
	OPTION_TYPE = 768,
	OPTION_CACHE,
	OPTION_ACCESS,
	OPTION_FORMAT,
};

#define NUMBER(option, member) \
	{ option, offsetof(struct options, member), -1 }
#define NUMBER_SEEN(option, member, seen)             \
	{ option, offsetof(struct options, member), \
	  offsetof(struct options, seen) }

static const struct {
	const char *option;
	size_t value;
	long seen;
} numbers[] = {
	NUMBER_SEEN("size", size, has_size),
	NUMBER("offset", offset),
	NUMBER("low", low),
	NUMBER("high", high),
	NUMBER("boundary", boundary),
	NUMBER("skip", skip),
	NUMBER_SEEN("flags", flags, has_flags),
	NUMBER("context", context),
	NUMBER("attributes", attributes),
	NUMBER("desired-access", desired_access),
	NUMBER_SEEN("adapter", adapter, has_adapter),
	NUMBER("value", value),
	NUMBER("step", step),
	NUMBER_SEEN("expect", expect, has_expect),
	NUMBER("source", source),
	NUMBER("destination", destination),
	NUMBER("page", page),
	NUMBER("index", index),
	NUMBER("first", first),
	NUMBER("count", count),
	NUMBER("limit", limit),
	NUMBER("timeout", timeout),
	NUMBER("width", width),
	NUMBER("height", height),
	NUMBER("pitch", pitch),
	NUMBER("seed", seed),
	NUMBER("x", x),
	NUMBER("y", y),
	NUMBER("hot-x", hot_x),
	NUMBER("hot-y", hot_y),
};

static const struct {
	const char *option;
	size_t value;
} flags[] = {
	{ "no-adapter", offsetof(struct options, no_adapter) },
	{ "messages", offsetof(struct options, messages) },
	{ "require-contiguous", offsetof(struct options, require_contiguous) },
	{ "prefer-contiguous", offsetof(struct options, prefer_contiguous) },
	{ "user", offsetof(struct options, user) },
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Decimal, 0x hexadecimal or 0 octal, negative too (two's complement), with
 * K, M, G or T for powers of 1024. */
bool parse_number(const char *text, uint64_t *value)
{
	static const char units[] = "KMGT";
	unsigned int shift = 0;
	const char *unit;
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	if (errno || end == text)
		return false;
	unit = *end ? strchr(units, *end) : NULL;
	if (unit) {
		shift = 10 * (unit - units + 1);
		end++;
	}
	if (*end || (shift && *value >> (64 - shift)))
		return false;
	*value <<= shift;
	return true;
}

static int parse_name(const struct name *names, const char *text,
		      uint32_t *value)
{
	uint64_t number;

	for (; names->name; names++) {
		if (!strcmp(names->name, text)) {
			*value = names->value;
			return EXIT_OK;
		}
	}
	if (!parse_number(text, &number) || number > UINT32_MAX)
		return output_error(EXIT_USAGE, "unknown value %s", text);
	*value = number;
	return EXIT_OK;
}

static const struct option *long_options(void)
{
	static struct option table[COUNT(numbers) + COUNT(flags) + 5];
	struct option *at = table;
	size_t i;

	for (i = 0; i < COUNT(numbers); i++)
		*at++ = (struct option){ numbers[i].option, required_argument,
					 NULL, OPTION_NUMBER + i };
	for (i = 0; i < COUNT(flags); i++)
		*at++ = (struct option){ flags[i].option, no_argument, NULL,
					 OPTION_FLAG + i };
	*at++ = (struct option){ "type", required_argument, NULL, OPTION_TYPE };
	*at++ = (struct option){ "cache", required_argument, NULL,
				 OPTION_CACHE };
	*at++ = (struct option){ "access", required_argument, NULL,
				 OPTION_ACCESS };
	*at++ = (struct option){ "format", required_argument, NULL,
				 OPTION_FORMAT };
	return table;
}

static int parse_one(struct options *options, int option, char **argv)
{
	char *base = (char *)options;

	if (option == OPTION_TYPE)
		return parse_name(types, optarg, &options->type);
	if (option == OPTION_CACHE)
		return parse_name(caches, optarg, &options->cache);
	if (option == OPTION_ACCESS)
		return parse_name(accesses, optarg, &options->access);
	if (option == OPTION_FORMAT)
		return parse_name(formats, optarg, &options->format);
	if (option >= OPTION_FLAG) {
		*(bool *)(base + flags[option - OPTION_FLAG].value) = true;
		return EXIT_OK;
	}
	if (option >= OPTION_NUMBER) {
		size_t i = option - OPTION_NUMBER;

		if (!parse_number(optarg, (uint64_t *)(base + numbers[i].value)))
			return output_error(EXIT_USAGE, "--%s: %s is no number",
					    numbers[i].option, optarg);
		if (numbers[i].seen >= 0)
			*(bool *)(base + numbers[i].seen) = true;
		return EXIT_OK;
	}
	return output_error(EXIT_USAGE, "bad option %s", argv[optind - 1]);
}

/* argv[0] is the command. 0, or an exit status after an error was put out. */
int options_parse(struct options *options, int argc, char **argv)
{
	const struct option *table = long_options();
	int option, ret;

	*options = (struct options){
		.high = UINT64_MAX,
		.cache = DXGK_MEMORY_CACHING_TYPE_CACHED,
		.attributes = SEC_COMMIT,
		.limit = 64,
		.count = 1,
		.format = VDXGK_FORMAT_XRGB8888,
		.timeout = 60,
	};
	optind = 0; /* start anew */
	opterr = 0;
	while ((option = getopt_long(argc, argv, "", table, NULL)) != -1) {
		ret = parse_one(options, option, argv);
		if (ret)
			return ret;
	}
	options->positional = argv + optind;
	options->positional_count = argc - optind;
	return EXIT_OK;
}

/* A positional argument that must be there. */
int options_handle(const struct options *options, int index, const char *name,
		   uint64_t *value)
{
	if (index >= options->positional_count)
		return output_error(EXIT_USAGE, "%s is missing", name);
	if (!parse_number(options->positional[index], value))
		return output_error(EXIT_USAGE, "%s: %s is no number", name,
				    options->positional[index]);
	return EXIT_OK;
}
