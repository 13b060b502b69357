// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * What the miniport finds of Windows beside Dxgkrnl: pool memory, the bus
 * interface of its PDO, and the registration of its table.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/slab.h>

#include "vdxgk.h"

DRIVER_INITIALIZATION_DATA vdxgk_miniport;

NTSTATUS DxgkInitialize(DRIVER_OBJECT *driver, UNICODE_STRING *registry_path,
			DRIVER_INITIALIZATION_DATA *data)
{
	if (data->Version != DXGKDDI_INTERFACE_VERSION_WDDM2_9 ||
	    !data->DxgkDdiAddDevice || !data->DxgkDdiStartDevice ||
	    !data->DxgkDdiStopDevice || !data->DxgkDdiRemoveDevice ||
	    !data->DxgkDdiQueryAdapterInfo || !data->DxgkDdiEscape ||
	    !data->DxgkDdiBeginExclusiveAccess ||
	    !data->DxgkDdiEndExclusiveAccess)
		return STATUS_INVALID_PARAMETER;
	vdxgk_miniport = *data;
	return STATUS_SUCCESS;
}

PVOID ExAllocatePool2(ULONG64 flags, SIZE_T size, ULONG tag)
{
	return kvzalloc(size, GFP_KERNEL);
}

void ExFreePoolWithTag(PVOID memory, ULONG tag)
{
	kvfree(memory);
}

NTSTATUS KeDelayExecutionThread(UCHAR wait_mode, BOOLEAN alertable,
				LARGE_INTEGER *interval)
{
	u64 microseconds;

	if (interval->QuadPart > 0)
		return STATUS_NOT_SUPPORTED; /* no absolute times here */
	microseconds = min_t(u64, -interval->QuadPart / 10, USEC_PER_SEC);
	usleep_range(microseconds, 2 * microseconds + 1);
	return STATUS_SUCCESS;
}

static void bus_reference(PVOID context)
{
	pci_dev_get(context);
}

static void bus_dereference(PVOID context)
{
	pci_dev_put(context);
}

static ULONG bus_get(PVOID context, ULONG type, PVOID buffer, ULONG offset,
		     ULONG length)
{
	struct pci_dev *pdev = context;
	u8 *bytes = buffer;
	ULONG i;

	if (type != PCI_WHICHSPACE_CONFIG || offset > pdev->cfg_size ||
	    length > pdev->cfg_size - offset)
		return 0;
	for (i = 0; i < length; i++)
		if (pci_read_config_byte(pdev, offset + i, &bytes[i]))
			return i;
	return length;
}

static ULONG bus_set(PVOID context, ULONG type, PVOID buffer, ULONG offset,
		     ULONG length)
{
	return 0; /* no miniport of ours writes to the configuration space */
}

NTSTATUS VdxgkQueryBusInterface(DEVICE_OBJECT *pdo,
				BUS_INTERFACE_STANDARD *interface)
{
	*interface = (BUS_INTERFACE_STANDARD){
		.Size = sizeof(*interface),
		.Version = 1,
		.Context = pdo,
		.InterfaceReference = bus_reference,
		.InterfaceDereference = bus_dereference,
		.SetBusData = bus_set,
		.GetBusData = bus_get,
	};
	bus_reference(pdo);
	return STATUS_SUCCESS;
}

const char *vdxgk_status_name(NTSTATUS status)
{
	switch (status) {
	case STATUS_SUCCESS:
		return "success";
	case STATUS_UNSUCCESSFUL:
		return "unsuccessful";
	case STATUS_INVALID_HANDLE:
		return "invalid handle";
	case STATUS_INVALID_PARAMETER:
		return "invalid parameter";
	case STATUS_NO_MEMORY:
		return "no memory";
	case STATUS_INSUFFICIENT_RESOURCES:
		return "insufficient resources";
	case STATUS_DEVICE_NOT_CONNECTED:
		return "the channel is dead";
	case STATUS_IO_TIMEOUT:
		return "no answer from the device";
	case STATUS_NOT_SUPPORTED:
		return "not supported";
	case STATUS_INTERNAL_ERROR:
		return "internal error of the device";
	case STATUS_INVALID_DEVICE_STATE:
		return "not in this state";
	case STATUS_DEVICE_PROTOCOL_ERROR:
		return "the device broke a rule";
	case STATUS_RESOURCE_IN_USE:
		return "in use";
	default:
		return "see ntstatus.h";
	}
}
