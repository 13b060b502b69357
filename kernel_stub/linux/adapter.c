// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * The life cycle of an adapter, in the order in which Dxgkrnl goes about it:
 * AddDevice, the capabilities, the decision how memory is addressed (the
 * backend's), StartDevice; and back.
 */
#include <linux/mm.h>
#include <linux/random.h>

#include "vdxgk.h"

#define RESERVED_MAX 64

static NTSTATUS query(struct vdxgk_device *dev, DXGK_QUERYADAPTERINFOTYPE type,
		      void *data, UINT size)
{
	DXGKARG_QUERYADAPTERINFO args = {
		.Type = type,
		.pOutputData = data,
		.OutputDataSize = size,
	};

	return vdxgk_miniport.DxgkDdiQueryAdapterInfo(dev->miniport, &args);
}

/* Linked adapters see no more than the one that sees least, and can do what all
 * of them can. */
static NTSTATUS query_caps(struct vdxgk_device *lead, struct vdxgk_device *dev)
{
	DXGK_PHYSICAL_MEMORY_CAPS memory = {};
	DXGK_IOMMU_CAPS iommu = {};
	NTSTATUS status;

	status = query(dev, DXGKQAITYPE_PHYSICAL_MEMORY_CAPS, &memory,
		       sizeof(memory));
	if (!NT_SUCCESS(status))
		return status;
	status = query(dev, DXGKQAITYPE_IOMMU_CAPS, &iommu, sizeof(iommu));
	if (!NT_SUCCESS(status))
		return status;
	lead->highest_visible =
		min_t(u64, lead->highest_visible,
		      memory.HighestVisibleAddress.QuadPart);
	lead->iommu_caps.Value &= iommu.Value;
	return status;
}

/* AddDevice of all of them comes before the first question. */
static NTSTATUS add_and_ask(struct vdxgk_device *lead, const char **step)
{
	NTSTATUS status = STATUS_SUCCESS;
	struct vdxgk_device *dev;
	unsigned int i;

	*step = "AddDevice";
	vdxgk_for_each_link(dev, lead, i) {
		status = vdxgk_miniport.DxgkDdiAddDevice(
			(DEVICE_OBJECT *)dev->pdev, &dev->miniport);
		if (!NT_SUCCESS(status))
			return status;
	}
	*step = "QueryAdapterInfo";
	lead->highest_visible = U64_MAX;
	lead->iommu_caps.Value = ~0u;
	vdxgk_for_each_link(dev, lead, i) {
		status = query_caps(lead, dev);
		if (!NT_SUCCESS(status))
			return status;
	}
	return status;
}

/* What a refusal to start most likely means, for whoever reads the log. */
static const char *refusal(struct vdxgk_device *dev, NTSTATUS status)
{
	if (status != STATUS_NOT_SUPPORTED)
		return vdxgk_status_name(status);
	if (dev->wanted_mode == VDXGK_MODE_LOGICAL && !dev->domain.domain)
		return "logical addressing needs an IOMMU before the device, enabled in this guest";
	if (dev->highest_ram > dev->highest_visible &&
	    (dev->wanted_mode == VDXGK_MODE_PHYSICAL || !dev->domain.domain))
		return "there is memory above what the GPU can address, and no remapping: WDDM doesn't start such an adapter";
	return "the device's log says why";
}

static NTSTATUS start(struct vdxgk_device *dev, u64 *probe,
		      struct vdxgk_range *reserved)
{
	int count = vdxgk_domain_reserved(dev, reserved, RESERVED_MAX);
	struct vdxgk_start_args args = {
		.highest_visible = dev->highest_visible,
		.iommu_caps = dev->iommu_caps.Value,
		.iommu = dev->domain.domain ? VDXGK_IOMMU_TRANSLATED :
					      VDXGK_IOMMU_NONE,
		.highest_ram = dev->highest_ram,
		.aperture_start = dev->domain.aperture_start,
		.aperture_end = dev->domain.aperture_end,
		.probe_gpa = virt_to_phys(probe),
		.mode = dev->wanted_mode,
	};
	struct vdxgk_call call = {
		.op = VDXGK_OP_START_ADAPTER,
		.args = &args,
		.args_size = sizeof(args),
		.list_in = reserved,
	};
	NTSTATUS status;

	if (count < 0) {
		dev_err(&dev->pdev->dev,
			"can't list the IOMMU's reserved regions: %pe\n",
			ERR_PTR(count));
		return STATUS_INSUFFICIENT_RESOURCES;
	}
	call.list_in_size = count * sizeof(*reserved);
	*probe = get_random_u64();
	args.probe_value = *probe;
	wmb(); /* the device may look as soon as it has the request */

	status = vdxgk_call(dev, &call);
	if (NT_SUCCESS(status)) {
		memcpy(&dev->start, call.result, sizeof(dev->start));
		dev->adapter_started = true;
	} else {
		dev_err(&dev->pdev->dev, "the adapter doesn't start: %#x, %s\n",
			status, refusal(dev, status));
		dev_err(&dev->pdev->dev,
			"guest memory up to %#llx, GPU up to %#llx, IOMMU %s, mode %u wanted\n",
			dev->highest_ram, dev->highest_visible,
			dev->domain.domain ? "present" : "absent",
			dev->wanted_mode);
	}
	return status;
}

static NTSTATUS start_adapter(struct vdxgk_device *dev)
{
	struct vdxgk_range *reserved;
	NTSTATUS status = STATUS_INSUFFICIENT_RESOURCES;
	u64 *probe;

	reserved = kcalloc(RESERVED_MAX, sizeof(*reserved), GFP_KERNEL);
	probe = (u64 *)get_zeroed_page(GFP_KERNEL);
	if (reserved && probe)
		status = start(dev, probe, reserved);
	free_page((unsigned long)probe);
	kfree(reserved);
	return status;
}

static NTSTATUS start_miniport(struct vdxgk_device *dev)
{
	ULONG sources, children;
	NTSTATUS status;

	vdxgk_interface_fill(dev);
	vdxgk_ddi_enter(dev); /* its registers are meant */
	status = vdxgk_miniport.DxgkDdiStartDevice(
		dev->miniport, NULL, &dev->interface, &sources, &children);
	vdxgk_ddi_leave(dev);
	dev->miniport_started = NT_SUCCESS(status);
	return status;
}

/* Asked of drivers that support isolation only. */
static NTSTATUS reserve_save_area(struct vdxgk_device *lead,
				  struct vdxgk_device *dev)
{
	DXGK_FRAMEBUFFERSAVEAREA area = {};
	UINT index = dev->cap.link_index;
	DXGKARG_QUERYADAPTERINFO args = {
		.Type = DXGKQAITYPE_FRAMEBUFFERSAVESIZE,
		.pInputData = &index,
		.InputDataSize = sizeof(index),
		.pOutputData = &area,
		.OutputDataSize = sizeof(area),
	};
	NTSTATUS status;

	if (!lead->iommu_caps.Bits.IommuIsolationSupported)
		return STATUS_SUCCESS;
	status = vdxgk_miniport.DxgkDdiQueryAdapterInfo(dev->miniport, &args);
	if (!NT_SUCCESS(status))
		return status;
	return vdxgk_save_area_reserve(lead, index, area.MaximumSize);
}

/* 0 or an errno; the log names the NTSTATUS. Undo with vdxgk_adapter_stop(),
 * in either case. */
int vdxgk_adapter_start(struct vdxgk_device *dev)
{
	struct device *device = &dev->pdev->dev;
	struct vdxgk_device *function;
	const char *step;
	NTSTATUS status;
	unsigned int i;

	dev->highest_ram = vdxgk_highest_ram();
	mutex_lock(&dev->lock);
	status = add_and_ask(dev, &step);
	if (NT_SUCCESS(status)) {
		step = "starting the adapter";
		status = start_adapter(dev);
	}
	vdxgk_for_each_link(function, dev, i) {
		if (NT_SUCCESS(status)) {
			step = "StartDevice";
			status = start_miniport(function);
		}
		if (NT_SUCCESS(status)) {
			step = "reserving the frame buffer's save area";
			status = reserve_save_area(dev, function);
		}
	}
	mutex_unlock(&dev->lock);

	if (!NT_SUCCESS(status)) {
		dev_err(device, "%s failed: %#x (%s)\n", step, status,
			vdxgk_status_name(status));
		return status == STATUS_NOT_SUPPORTED ? -EOPNOTSUPP : -EIO;
	}
	if (dev->start.mode == VDXGK_MODE_LOGICAL)
		dev_info(device, "logical mode, addresses %#llx-%#llx\n",
			 (u64)dev->start.logical_start,
			 (u64)dev->start.logical_end);
	else
		dev_info(device, "physical mode%s\n",
			 dev->domain.domain ? ", behind an identity domain" : "");
	return 0;
}

static void stop_adapter(struct vdxgk_device *dev)
{
	struct vdxgk_stop_args args = { .adapter = dev->start.adapter };
	struct vdxgk_call call = {
		.op = VDXGK_OP_STOP_ADAPTER,
		.args = &args,
		.args_size = sizeof(args),
	};
	struct vdxgk_stop_result result;
	NTSTATUS status = vdxgk_call(dev, &call);

	memcpy(&result, call.result, sizeof(result));
	if (!NT_SUCCESS(status))
		dev_err(&dev->pdev->dev, "stopping the adapter: %#x (%s)\n",
			status, vdxgk_status_name(status));
	else if (result.leaked_objects || result.leaked_adls)
		dev_warn(&dev->pdev->dev, "leaked: %u objects, %u lists\n",
			 result.leaked_objects, result.leaked_adls);
	dev->adapter_started = false;
}

static void stop_miniport(struct vdxgk_device *dev)
{
	vdxgk_ddi_enter(dev);
	if (dev->miniport_started)
		vdxgk_miniport.DxgkDdiStopDevice(dev->miniport);
	dev->miniport_started = false;
	if (dev->miniport)
		vdxgk_miniport.DxgkDdiRemoveDevice(dev->miniport);
	dev->miniport = NULL;
	vdxgk_ddi_leave(dev);
}

/*
 * However far the start came, and whatever the device still answers.
 * Afterwards no page of the guest is the backend's, and nothing is mapped.
 */
void vdxgk_adapter_stop(struct vdxgk_device *dev)
{
	struct vdxgk_device *function;
	unsigned int i;

	mutex_lock(&dev->lock);
	vdxgk_sabotage_mend(dev);
	vdxgk_for_each_link(function, dev, i)
		stop_miniport(function);

	if (dev->adapter_started)
		stop_adapter(dev);
	vdxgk_object_drop_all(dev);
	vdxgk_adl_drop_of(dev, NULL);
	if (dev->memory.donated)
		vdxgk_memory_reclaim(dev, true);
	mutex_unlock(&dev->lock);
}
