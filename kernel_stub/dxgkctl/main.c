// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dxgkctl.h"

#define ARGUMENTS_MAX 64

static const struct command {
	const char *name;
	int (*run)(const struct options *options);
	const char *help;
} commands[] = {
	{ "create", command_create,
	  "--size S [--type mdl|contiguous|section|io-space] [--low A] [--high A]\n"
	  "\t[--boundary N] [--skip N] [--flags N] [--cache cached|wc|uncached]\n"
	  "\t[--no-adapter | --adapter HANDLE] [--context N] [--limit RUNS]\n"
	  "\t(section: --flags is PageProtection, then [--attributes N]\n"
	  "\t[--desired-access N]; io-space: --low is BaseAddress)" },
	{ "open", command_open, "OBJECT [--adapter HANDLE]" },
	{ "close", command_close, "ADAPTER_OBJECT" },
	{ "destroy", command_destroy, "OBJECT [ADAPTER_OBJECT]" },
	{ "runs", command_runs, "OBJECT [--first N] [--limit RUNS]" },
	{ "frames", command_frames, "OBJECT (its pages, by the page tables)" },
	{ "adl", command_adl,
	  "ADAPTER_OBJECT --size S [--offset O] [--require-contiguous]\n"
	  "\t[--prefer-contiguous] [--flags N] [--limit PAGES]" },
	{ "pages", command_pages, "ADL [--first N] [--limit PAGES]" },
	{ "free", command_free, "ADL [ADAPTER_OBJECT]" },
	{ "pin", command_pin,
	  "--size S [--prefer-contiguous] [--flags N] [--index N]\n"
	  "\t[--adapter HANDLE] [--limit PAGES] (the frame buffer's save area)" },
	{ "unpin", command_unpin, "[--index N] [--adapter HANDLE]" },
	{ "older", command_older,
	  "CALLBACK [--adapter HANDLE] (a callback of WDDM 2.4)" },
	{ "map", command_map,
	  "OBJECT --size S [--offset O] [--user | --access kernel|user|N]" },
	{ "unmap", command_unmap, "VIEW" },
	{ "write", command_write,
	  "OBJECT [--offset O] [--size S] --value V --step D [--user]" },
	{ "read", command_read,
	  "OBJECT [--offset O] [--size S] [--expect V --step D] [--user]" },
	{ "abuse", command_abuse, "OBJECT --size S (a hostile process's view)" },
	{ "peek", command_peek, "ADDRESS (in a script: of a view mapped there)" },
	{ "dma", command_dma,
	  "copy|fill|crc32|nop [--source A] [--destination A] [--size S]\n"
	  "\t[--value V] [--step D] [--messages] [--timeout SECONDS]" },
	{ "exclusive", command_exclusive,
	  "[auto|physical|logical] (exclusive access, and another domain)" },
	{ "pattern", command_pattern,
	  "OBJECT --width W --height H [--pitch B] [--format xrgb8888|argb8888|rgb565]\n"
	  "\t[--offset O] [--seed N] (draw)" },
	{ "present", command_present,
	  "ADL --width W --height H [--pitch B] [--format F] [--offset O]\n"
	  "\t[--messages] [--timeout SECONDS] (and wait until it is shown)" },
	{ "flip", command_flip,
	  "ADL ADL [OBJECT OBJECT] [--count N] ... (present in turn; draw before\n"
	  "\tinto OBJECT, with seeds from --seed on)" },
	{ "cursor", command_cursor,
	  "show [ADL] --x X --y Y [--hot-x X] [--hot-y Y] [--seed N] |\n"
	  "\tmove --x X --y Y | hide" },
	{ "screen", command_screen,
	  "[show|blank|return|vblanks|no-vblanks] (return: to the framebuffer)" },
	{ "canary", command_canary, "" },
	{ "sabotage", command_sabotage,
	  "skip|wrong|read-only|leave|none [--page N]" },
	{ "status", command_status, "" },
	{ "events", command_events, "" },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void usage(FILE *to)
{
	size_t i;

	fputs("usage: dxgkctl [--json] [--device PATH] COMMAND ...\n"
	      "       dxgkctl [--device PATH] script FILE|-\n\n",
	      to);
	for (i = 0; i < COMMANDS; i++)
		fprintf(to, "  %s %s\n", commands[i].name, commands[i].help);
	fputs("\nNumbers: decimal, 0x hexadecimal, with K, M, G or T.\n"
	      "Exit status: 0 success, 1 an NTSTATUS says failure, 2 usage,\n"
	      "3 no device or a system error.\n",
	      to);
}

static int run_command(int argc, char **argv)
{
	struct options options;
	size_t i;
	int ret;

	output_begin(argv[0]);
	for (i = 0; i < COMMANDS; i++)
		if (!strcmp(commands[i].name, argv[0]))
			break;
	if (i == COMMANDS) {
		ret = output_error(EXIT_USAGE, "unknown command %s", argv[0]);
	} else {
		ret = options_parse(&options, argc, argv);
		if (!ret)
			ret = commands[i].run(&options);
	}
	output_end();
	return ret;
}

static int run_line(char *line)
{
	char *arguments[ARGUMENTS_MAX + 1];
	char *save, *word;
	int count = 0;

	for (word = strtok_r(line, " \t\r\n", &save); word;
	     word = strtok_r(NULL, " \t\r\n", &save)) {
		if (count == ARGUMENTS_MAX) {
			output_begin(arguments[0]);
			output_error(EXIT_USAGE, "too many arguments");
			output_end();
			return EXIT_USAGE;
		}
		arguments[count++] = word;
	}
	if (!count || arguments[0][0] == '#')
		return EXIT_OK;
	arguments[count] = NULL;
	return run_command(count, arguments);
}

/* A command on each line, a JSON object for each; failures end nothing. The
 * exit status is the worst of them. */
static int run_script(const char *path)
{
	FILE *file = strcmp(path, "-") ? fopen(path, "re") : stdin;
	int worst = EXIT_OK;
	size_t room = 0;
	char *line = NULL;

	if (!file) {
		fprintf(stderr, "dxgkctl: %s: %s\n", path, strerror(errno));
		return EXIT_SYSTEM;
	}
	output_json(true);
	while (getline(&line, &room, file) >= 0) {
		int ret = run_line(line);

		if (ret > worst)
			worst = ret;
	}
	free(line);
	if (file != stdin)
		fclose(file);
	return worst;
}

/* --json is taken wherever it stands. */
static int take_json(int argc, char **argv)
{
	int from, to = 1;

	for (from = 1; from < argc; from++) {
		if (!strcmp(argv[from], "--json"))
			output_json(true);
		else
			argv[to++] = argv[from];
	}
	argv[to] = NULL;
	return to;
}

int main(int argc, char **argv)
{
	int at = 1;

	argc = take_json(argc, argv);
	for (; at < argc && argv[at][0] == '-'; at++) {
		if (!strcmp(argv[at], "--device") && at + 1 < argc) {
			device_path(argv[++at]);
		} else if (!strcmp(argv[at], "--help")) {
			usage(stdout);
			return EXIT_OK;
		} else {
			usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (at == argc) {
		usage(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[at], "script")) {
		if (at + 2 == argc)
			return run_script(argv[at + 1]);
		usage(stderr);
		return EXIT_USAGE;
	}
	return run_command(argc - at, argv + at);
}
