// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Events from the backend: to the kernel log, and the last of them kept.
 */
#include <linux/module.h>
#include <linux/panic.h>

#include "vdxgk.h"

static bool bugcheck_panics;
module_param(bugcheck_panics, bool, 0644);
MODULE_PARM_DESC(bugcheck_panics, "stop the guest where Windows would stop");

#define RING_MASK (VDXGK_RING_ENTRIES - 1)

static void report(struct vdxgk_device *dev, const struct vdxgk_event *event)
{
	struct device *device = &dev->pdev->dev;
	const vdxgk_u64 *p = event->parameters;

	switch (event->type) {
	case VDXGK_EVENT_FAULT:
		dev_warn_ratelimited(device,
				     "GPU fault: %s of %llu bytes at %#llx refused, reason %u\n",
				     event->code & VDXGK_FAULT_WRITE ? "write" : "read",
				     (u64)p[1], (u64)p[0],
				     event->code & VDXGK_FAULT_REASON_MASK);
		break;
	case VDXGK_EVENT_REMAP_FAILURE:
		dev_err_ratelimited(device,
				    "remapping failure: list %#llx, logical %#llx, expected %#llx, found %#llx, access %llu\n",
				    (u64)p[0], (u64)p[1], (u64)p[2], (u64)p[3],
				    (u64)p[4]);
		break;
	case VDXGK_EVENT_BUGCHECK:
		dev_err_ratelimited(device,
				    "Windows would stop here: %#x (%#llx, %#llx, %#llx, %#llx)\n",
				    event->code, (u64)p[0], (u64)p[1],
				    (u64)p[2], (u64)p[3]);
		if (bugcheck_panics)
			panic("vdxgk: bugcheck %#x (%#llx)\n", event->code,
			      (u64)p[0]);
		break;
	case VDXGK_EVENT_MEMORY_SURPLUS:
		schedule_work(&dev->surplus);
		break;
	default:
		dev_warn_ratelimited(device, "event of unknown type %u\n",
				     event->type);
	}
}

/* Called with events->lock held. */
static void drain_once(struct vdxgk_device *dev)
{
	struct vdxgk_events *events = &dev->events;
	struct vdxgk_ring *ring = &dev->rings[VDXGK_RING_EVENTS];
	const struct vdxgk_event *entries = dev->shared + VDXGK_SHARED_EVENTS;
	u32 producer = READ_ONCE(ring->producer);
	u32 waiting = producer - events->consumer;

	if (waiting > VDXGK_RING_ENTRIES) {
		dev_err_ratelimited(&dev->pdev->dev,
				    "the event ring's producer ran away (%#x, consumer %#x)\n",
				    producer, events->consumer);
		waiting = 0;
		events->consumer = producer;
	}
	virt_rmb(); /* entries after the index */
	for (; waiting; waiting--) {
		struct vdxgk_event *kept =
			&events->kept[events->total % VDXGK_EVENTS_KEPT];

		*kept = entries[events->consumer & RING_MASK];
		barrier(); /* from here on only the copy counts */
		events->consumer++;
		events->total++;
		report(dev, kept);
	}
	virt_mb(); /* entries are read before their room is given back */
	WRITE_ONCE(ring->consumer, events->consumer);
}

void vdxgk_events_drain(struct vdxgk_device *dev)
{
	struct vdxgk_ring *ring = &dev->rings[VDXGK_RING_EVENTS];

	mutex_lock(&dev->events.lock);
	WRITE_ONCE(ring->notify, 0);
	drain_once(dev);
	WRITE_ONCE(ring->notify, 1);
	virt_mb(); /* ask to be told before looking once more */
	drain_once(dev);
	mutex_unlock(&dev->events.lock);
}

irqreturn_t vdxgk_events_interrupt(int irq, void *data)
{
	vdxgk_events_drain(data);
	return IRQ_HANDLED;
}

void vdxgk_events_start(struct vdxgk_device *dev)
{
	dev->events.consumer =
		READ_ONCE(dev->rings[VDXGK_RING_EVENTS].consumer);
	vdxgk_events_drain(dev);
}

/* What has come up to now, including what no interrupt has told yet. */
void vdxgk_events_read(struct vdxgk_device *dev, struct vdxgk_ioctl_events *to)
{
	struct vdxgk_events *events = &dev->events;
	u64 at;

	vdxgk_events_drain(dev);
	mutex_lock(&events->lock);
	to->total = events->total;
	to->lost = READ_ONCE(dev->rings[VDXGK_RING_EVENTS].lost);
	to->count = min_t(u64, events->total, VDXGK_EVENTS_KEPT);
	for (at = 0; at < to->count; at++)
		to->events[at] = events->kept[(events->total - to->count + at) %
					      VDXGK_EVENTS_KEPT];
	mutex_unlock(&events->lock);
}
