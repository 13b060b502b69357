// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * What a command puts out: one object, as JSON on one line or as lines of
 * "key: value".
 */
#include <stdarg.h>
#include <stdio.h>

#include "dxgkctl.h"

static bool json;
static bool first_item;
static bool failed; /* the object holds an error already */

void output_json(bool wanted)
{
	json = wanted;
}

bool output_is_json(void)
{
	return json;
}

static void print_string(const char *text)
{
	if (!json) {
		fputs(text, stdout);
		return;
	}
	putchar('"');
	for (; *text; text++) {
		unsigned char c = *text;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c > 0x7e)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void key(const char *name)
{
	printf(json ? ", \"%s\": " : "%s: ", name);
}

static void end_line(void)
{
	if (!json)
		putchar('\n');
}

void output_begin(const char *command)
{
	failed = false;
	if (!json)
		return;
	printf("{\"command\": ");
	print_string(command);
}

void output_number(const char *name, uint64_t value)
{
	key(name);
	printf("%llu", (unsigned long long)value);
	end_line();
}

/* JSON numbers lose bits beyond 2^53, so addresses and handles are strings. */
void output_hex(const char *name, uint64_t value)
{
	key(name);
	printf(json ? "\"0x%llx\"" : "0x%llx", (unsigned long long)value);
	end_line();
}

void output_bool(const char *name, bool value)
{
	key(name);
	fputs(value ? "true" : "false", stdout);
	end_line();
}

void output_string(const char *name, const char *value)
{
	key(name);
	print_string(value);
	end_line();
}

void output_list_begin(const char *name)
{
	key(name);
	if (json)
		putchar('[');
	first_item = true;
}

static void item(void)
{
	if (json && !first_item)
		printf(", ");
	if (!json)
		printf("\n  ");
	first_item = false;
}

void output_pair_hex(uint64_t first, uint64_t second)
{
	item();
	printf(json ? "[\"0x%llx\", \"0x%llx\"]" : "0x%llx 0x%llx",
	       (unsigned long long)first, (unsigned long long)second);
}

void output_item_hex(uint64_t value)
{
	item();
	printf(json ? "\"0x%llx\"" : "0x%llx", (unsigned long long)value);
}

static const char *event_name(uint32_t type)
{
	switch (type) {
	case VDXGK_EVENT_FAULT:
		return "fault";
	case VDXGK_EVENT_REMAP_FAILURE:
		return "remap-failure";
	case VDXGK_EVENT_BUGCHECK:
		return "bugcheck";
	case VDXGK_EVENT_MEMORY_SURPLUS:
		return "memory-surplus";
	case VDXGK_EVENT_EXCLUSIVE_VIOLATION:
		return "exclusive-violation";
	default:
		return "unknown";
	}
}

static void member(const char *name, uint64_t value)
{
	printf(json ? ", \"%s\": \"0x%llx\"" : " %s 0x%llx", name,
	       (unsigned long long)value);
}

static void count_member(const char *name, uint64_t value)
{
	printf(json ? ", \"%s\": %llu" : " %s %llu", name,
	       (unsigned long long)value);
}

void output_item_event(const struct vdxgk_event *event)
{
	const vdxgk_u64 *p = event->parameters;
	unsigned int i;

	item();
	printf(json ? "{\"type\": \"%s\"" : "%s", event_name(event->type));
	member("code", event->code);
	switch (event->type) {
	case VDXGK_EVENT_FAULT:
		printf(json ? ", \"access\": \"%s\"" : " %s",
		       event->code & VDXGK_FAULT_WRITE ? "write" : "read");
		count_member("reason", event->code & VDXGK_FAULT_REASON_MASK);
		member("address", p[0]);
		count_member("size", p[1]);
		break;
	case VDXGK_EVENT_REMAP_FAILURE:
		member("adl", p[0]);
		member("logical", p[1]);
		member("expected", p[2]);
		member("found", p[3]);
		count_member("access", p[4]);
		break;
	default:
		for (i = 0; i < 4; i++) {
			char name[] = { 'p', '1' + i, 0 };

			member(name, p[i]);
		}
	}
	if (json)
		putchar('}');
}

void output_list_end(void)
{
	if (json)
		putchar(']');
	end_line();
}

/* The NTSTATUS of a command; returns its exit status. */
int output_status(uint32_t status)
{
	key("status");
	printf(json ? "\"0x%08x\"" : "0x%08x", status);
	end_line();
	output_string("name", nt_name(status));
	return (int32_t)status < 0 ? EXIT_NTSTATUS : EXIT_OK;
}

/* Anything but an NTSTATUS that went wrong. Returns `status`. */
int output_error(enum exit_status status, const char *format, ...)
{
	char text[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	fprintf(stderr, "dxgkctl: %s\n", text);
	if (json && !failed)
		output_string("error", text);
	failed = true;
	return status;
}

void output_end(void)
{
	if (json)
		puts("}");
	fflush(stdout);
}
