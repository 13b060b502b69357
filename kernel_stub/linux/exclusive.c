// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Exclusive access: attaching another domain isn't atomic, so the miniport
 * promises that the device touches no memory meanwhile, and the backend
 * watches.
 */
#include "vdxgk.h"

static NTSTATUS begin(struct vdxgk_device *dev, u32 mode)
{
	struct vdxgk_exclusive_args args = {
		.adapter = dev->start.adapter,
		.mode = mode,
	};

	return vdxgk_call_simple(dev, VDXGK_OP_BEGIN_EXCLUSIVE, &args,
				 sizeof(args));
}

static NTSTATUS end(struct vdxgk_device *dev,
		    struct vdxgk_ioctl_exclusive *request)
{
	struct vdxgk_exclusive_args args = { .adapter = dev->start.adapter };
	struct vdxgk_call call = {
		.op = VDXGK_OP_END_EXCLUSIVE,
		.args = &args,
		.args_size = sizeof(args),
	};
	struct vdxgk_end_exclusive_result result;
	NTSTATUS status = vdxgk_call(dev, &call);

	memcpy(&result, call.result, sizeof(result));
	request->violations = result.violations;
	if (NT_SUCCESS(status))
		dev->start = result.start;
	return status;
}

/* Called with dev->lock held, in a DDI call. */
static NTSTATUS switch_domain(struct vdxgk_device *dev,
			      struct vdxgk_ioctl_exclusive *request)
{
	NTSTATUS status = begin(dev, request->mode), ended;
	int ret = 0;

	if (!NT_SUCCESS(status))
		return status;
	if (dev->domain.domain) {
		ret = vdxgk_domain_switch(dev);
		request->switched = !ret;
	}
	ended = end(dev, request);
	return ret ? STATUS_INSUFFICIENT_RESOURCES : ended;
}

/* Called with dev->lock held. */
void vdxgk_exclusive(struct vdxgk_device *dev,
		     struct vdxgk_ioctl_exclusive *request)
{
	DXGKARG_BEGINEXCLUSIVEACCESS begin_args = {};
	DXGKARG_ENDEXCLUSIVEACCESS end_args = {};
	NTSTATUS status = STATUS_SUCCESS;
	struct vdxgk_device *function;
	unsigned int begun;

	request->violations = 0;
	request->switched = 0;
	vdxgk_ddi_enter(dev);
	vdxgk_for_each_link(function, dev, begun) {
		status = vdxgk_miniport.DxgkDdiBeginExclusiveAccess(
			function->miniport, &begin_args);
		if (!NT_SUCCESS(status))
			break;
	}
	if (NT_SUCCESS(status))
		status = switch_domain(dev, request);
	while (begun--)
		vdxgk_miniport.DxgkDdiEndExclusiveAccess(
			dev->links[begun]->miniport, &end_args);
	vdxgk_ddi_leave(dev);
	request->mode = dev->start.mode;
	request->status = status;
}
