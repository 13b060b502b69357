// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Commands that ask the shim, not the miniport.
 */
#include <string.h>

#include "dxgkctl.h"
#include "ntstatus.h"

int command_canary(const struct options *options)
{
	struct vdxgk_ioctl_canary report;
	int ret = device_ioctl(VDXGK_IOCTL_CANARY, &report);
	bool damaged;

	(void)options;
	if (ret)
		return ret;
	damaged = report.damaged || report.damaged_before;
	ret = output_status(damaged ? STATUS_DATA_ERROR : STATUS_SUCCESS);
	output_number("checked", report.checked);
	output_number("damaged", report.damaged);
	output_number("damaged_before", report.damaged_before);
	if (report.damaged) {
		output_hex("first", report.first);
		output_hex("expected", report.expected);
		output_hex("found", report.found);
	}
	if (report.damaged_before)
		output_hex("first_before", report.first_before);
	return ret;
}

int command_sabotage(const struct options *options)
{
	static const char *const kinds[] = {
		[VDXGK_SABOTAGE_NONE] = "none",
		[VDXGK_SABOTAGE_SKIP] = "skip",
		[VDXGK_SABOTAGE_WRONG] = "wrong",
		[VDXGK_SABOTAGE_READ_ONLY] = "read-only",
		[VDXGK_SABOTAGE_LEAVE] = "leave",
	};
	struct vdxgk_ioctl_sabotage request = { .page = options->page };
	uint32_t kind;
	int ret;

	if (!options->positional_count)
		return output_error(
			EXIT_USAGE,
			"skip, wrong, read-only, leave or none is missing");
	for (kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++)
		if (!strcmp(kinds[kind], options->positional[0]))
			break;
	request.kind = kind;
	if (kind == sizeof(kinds) / sizeof(kinds[0]))
		return output_error(EXIT_USAGE, "%s is no sabotage",
				    options->positional[0]);
	ret = device_ioctl(VDXGK_IOCTL_SABOTAGE, &request);
	return ret ? ret : output_status(0);
}

static const char *mode_name(uint32_t mode)
{
	switch (mode) {
	case VDXGK_MODE_PHYSICAL:
		return "physical";
	case VDXGK_MODE_LOGICAL:
		return "logical";
	default:
		return "unknown";
	}
}

static int parse_mode(const char *text, uint32_t *mode)
{
	static const char *const names[] = {
		[VDXGK_MODE_AUTO] = "auto",
		[VDXGK_MODE_PHYSICAL] = "physical",
		[VDXGK_MODE_LOGICAL] = "logical",
	};

	for (*mode = 0; *mode < sizeof(names) / sizeof(names[0]); ++*mode)
		if (!strcmp(names[*mode], text))
			return EXIT_OK;
	return output_error(EXIT_USAGE, "%s is none of auto, physical, logical",
			    text);
}

int command_exclusive(const struct options *options)
{
	struct vdxgk_ioctl_exclusive request = {};
	int ret = EXIT_OK;

	if (options->positional_count)
		ret = parse_mode(options->positional[0], &request.mode);
	if (!ret)
		ret = device_ioctl(VDXGK_IOCTL_EXCLUSIVE, &request);
	if (ret)
		return ret;
	ret = output_status(request.status);
	output_string("mode", mode_name(request.mode));
	output_bool("switched", request.switched);
	output_number("violations", request.violations);
	return ret;
}

int command_status(const struct options *options)
{
	struct vdxgk_ioctl_status s;
	int ret = device_ioctl(VDXGK_IOCTL_STATUS, &s);

	(void)options;
	if (ret)
		return ret;
	ret = output_status(0);
	output_hex("adapter", s.adapter);
	output_string("mode", mode_name(s.mode));
	output_bool("iommu", s.iommu == VDXGK_IOMMU_TRANSLATED);
	output_hex("iommu_caps", s.iommu_caps);
	output_number("dma_bits", s.dma_bits);
	output_hex("highest_visible", s.highest_visible);
	output_hex("highest_ram", s.highest_ram);
	output_hex("logical_start", s.logical_start);
	output_hex("logical_end", s.logical_end);
	output_number("objects", s.objects);
	output_number("adls", s.adls);
	output_number("views", s.views);
	output_number("donated", s.donated);
	output_number("free", s.free);
	output_number("faults", s.faults);
	output_number("events", s.events);
	output_number("requests", s.requests);
	output_number("doorbells", s.doorbells);
	output_number("channel_interrupts", s.channel_interrupts);
	output_number("engine_interrupts", s.engine_interrupts);
	output_bool("dead", s.dead);
	return ret;
}

int command_events(const struct options *options)
{
	static struct vdxgk_ioctl_events events;
	int ret = device_ioctl(VDXGK_IOCTL_EVENTS, &events);
	uint32_t i;

	(void)options;
	if (ret)
		return ret;
	ret = output_status(0);
	output_number("total", events.total);
	output_number("lost", events.lost);
	output_list_begin("events");
	for (i = 0; i < events.count && i < VDXGK_EVENTS_KEPT; i++)
		output_item_event(&events.events[i]);
	output_list_end();
	return ret;
}
