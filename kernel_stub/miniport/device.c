// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * What the device's PCI configuration space tells: where its registers and
 * shared memory are, and how wide the addresses are that it emits.
 */
#include "miniport.h"

#define PCI_STATUS 0x06
#define PCI_STATUS_CAPABILITIES 0x10
#define PCI_BAR0 0x10
#define PCI_CAPABILITIES 0x34
#define PCI_FIRST_CAPABILITY 0x40
#define PCI_CONFIG_SIZE 0x100
#define PCI_BARS 6
#define PCI_BAR_IO 0x1
#define PCI_BAR_TYPE 0x6
#define PCI_BAR_TYPE_64 0x4
#define PCI_BAR_MEMORY_MASK 0xfffffff0u

static BOOLEAN read_config(struct miniport *mp, void *buffer, ULONG offset,
			   ULONG length)
{
	return mp->bus.GetBusData(mp->bus.Context, PCI_WHICHSPACE_CONFIG,
				  buffer, offset, length) == length;
}

static NTSTATUS find_capability(struct miniport *mp)
{
	struct vdxgk_pci_cap *cap = &mp->cap;
	USHORT config_status;
	unsigned int left;
	UCHAR at;

	if (!read_config(mp, &config_status, PCI_STATUS,
			 sizeof(config_status)) ||
	    !(config_status & PCI_STATUS_CAPABILITIES) ||
	    !read_config(mp, &at, PCI_CAPABILITIES, sizeof(at)))
		return STATUS_NOT_SUPPORTED;

	/* Bounded: the list may run in a circle. */
	for (left = PCI_CONFIG_SIZE / 4; left; left--) {
		at &= 0xfc;
		if (at < PCI_FIRST_CAPABILITY ||
		    at + sizeof(*cap) > PCI_CONFIG_SIZE)
			break;
		if (!read_config(mp, cap, at, sizeof(*cap)))
			break;
		if (cap->cap_id == VDXGK_PCI_CAP_ID &&
		    cap->magic == VDXGK_MAGIC)
			return STATUS_SUCCESS;
		at = cap->cap_next;
	}
	return STATUS_NOT_SUPPORTED;
}

/* The BAR's bus address is the CPU's on the machines that this device lives
 * in, so no resource list is needed to translate it. */
static NTSTATUS find_bar(struct miniport *mp)
{
	ULONG low, high = 0;
	ULONG at = PCI_BAR0 + 4 * mp->cap.bar;

	if (mp->cap.bar >= PCI_BARS || !read_config(mp, &low, at, sizeof(low)))
		return STATUS_DEVICE_PROTOCOL_ERROR;
	if (low & PCI_BAR_IO)
		return STATUS_DEVICE_PROTOCOL_ERROR;
	if ((low & PCI_BAR_TYPE) == PCI_BAR_TYPE_64 &&
	    (mp->cap.bar + 1 >= PCI_BARS ||
	     !read_config(mp, &high, at + 4, sizeof(high))))
		return STATUS_DEVICE_PROTOCOL_ERROR;
	mp->bar.QuadPart = (LONGLONG)((ULONG64)high << 32 |
				      (low & PCI_BAR_MEMORY_MASK));
	return STATUS_SUCCESS;
}

NTSTATUS miniport_find_device(struct miniport *mp)
{
	const struct vdxgk_pci_cap *cap = &mp->cap;
	NTSTATUS status;

	status = find_capability(mp);
	if (!NT_SUCCESS(status))
		return status;
	if (cap->version != VDXGK_PCI_CAP_VERSION ||
	    cap->cap_length < sizeof(*cap) || cap->dma_bits < 12 ||
	    cap->dma_bits > 64 || cap->shared_size < VDXGK_SHARED_BULK)
		return STATUS_DEVICE_PROTOCOL_ERROR;
	return find_bar(mp);
}
