// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * The request channel: slots for requests in flight, each with its slice of
 * the bulk data; completions come by MSI-X or MSI.
 *
 * The backend writes to the shared memory whenever it likes, so an entry is
 * copied once and the copy is checked.  A channel that breaks a rule, or that
 * is silent for a minute, is dead: all requests fail, nothing hangs.
 */
#include <linux/iopoll.h>
#include <linux/slab.h>

#include "vdxgk.h"

#define RING_MASK (VDXGK_RING_ENTRIES - 1)
#define READY_TIMEOUT_US (10 * USEC_PER_SEC)
#define ANSWER_TIMEOUT (60 * HZ)

static struct vdxgk_request *request_entries(struct vdxgk_device *dev)
{
	return dev->shared + VDXGK_SHARED_REQUESTS;
}

static struct vdxgk_completion *completion_entries(struct vdxgk_device *dev)
{
	return dev->shared + VDXGK_SHARED_COMPLETIONS;
}

static void *slice(struct vdxgk_device *dev, unsigned int slot)
{
	return dev->shared + VDXGK_SHARED_BULK + slot * VDXGK_BULK_SLICE;
}

/* Called with channel->lock held. */
static void kill_locked(struct vdxgk_channel *channel)
{
	unsigned int i;

	channel->dead = true;
	for (i = 0; i < channel->slot_count; i++)
		complete(&channel->slots[i].done);
	wake_up_all(&channel->slot_free);
}

void vdxgk_channel_kill(struct vdxgk_device *dev)
{
	struct vdxgk_channel *channel = &dev->channel;
	unsigned long flags;

	spin_lock_irqsave(&channel->lock, flags);
	kill_locked(channel);
	spin_unlock_irqrestore(&channel->lock, flags);
}

/* Called with channel->lock held. The cookie's low bits are its slot. */
static void take_completion(struct vdxgk_channel *channel,
			    const struct vdxgk_completion *completion)
{
	struct vdxgk_slot *slot =
		&channel->slots[completion->cookie % VDXGK_CHANNEL_SLOTS];

	if (!completion->cookie || slot->cookie != completion->cookie ||
	    slot->answered)
		return; /* late, or not one of ours */
	slot->answer = *completion;
	slot->answered = true;
	complete(&slot->done);
}

/* Called with channel->lock held. */
static void drain_once(struct vdxgk_device *dev)
{
	struct vdxgk_channel *channel = &dev->channel;
	struct vdxgk_ring *ring = &dev->rings[VDXGK_RING_COMPLETIONS];
	u32 producer = READ_ONCE(ring->producer);
	struct vdxgk_completion copy;

	if (producer - channel->consumer > VDXGK_RING_ENTRIES) {
		dev_err(&dev->pdev->dev,
			"the completion ring's producer ran away (%#x, consumer %#x)\n",
			producer, channel->consumer);
		kill_locked(channel);
		return;
	}
	virt_rmb(); /* entries after the index */
	while (channel->consumer != producer) {
		copy = completion_entries(dev)[channel->consumer & RING_MASK];
		barrier(); /* from here on only the copy counts */
		take_completion(channel, &copy);
		channel->consumer++;
	}
	virt_mb(); /* entries are read before their room is given back */
	WRITE_ONCE(ring->consumer, channel->consumer);
}

static void drain(struct vdxgk_device *dev)
{
	struct vdxgk_channel *channel = &dev->channel;
	struct vdxgk_ring *ring = &dev->rings[VDXGK_RING_COMPLETIONS];
	unsigned long flags;

	spin_lock_irqsave(&channel->lock, flags);
	if (!channel->dead) {
		WRITE_ONCE(ring->notify, 0);
		drain_once(dev);
		WRITE_ONCE(ring->notify, 1);
		virt_mb(); /* ask to be told before looking once more */
		drain_once(dev);
	}
	spin_unlock_irqrestore(&channel->lock, flags);
}

irqreturn_t vdxgk_channel_interrupt(int irq, void *data)
{
	struct vdxgk_device *dev = data;

	dev->channel.interrupts++;
	drain(dev);
	return IRQ_HANDLED;
}

/*
 * Reset the device's side and take the rings over.  The register page is
 * mapped and no interrupt is enabled yet.
 */
int vdxgk_channel_start(struct vdxgk_device *dev)
{
	struct vdxgk_channel *channel = &dev->channel;
	unsigned int i;
	u32 status;
	int ret;

	spin_lock_init(&channel->lock);
	init_waitqueue_head(&channel->slot_free);
	channel->dead = true; /* until it is there */
	for (i = 0; i < VDXGK_CHANNEL_SLOTS; i++)
		init_completion(&channel->slots[i].done);
	channel->slot_count = min_t(size_t, VDXGK_CHANNEL_SLOTS,
				    dev->bulk_size / VDXGK_BULK_SLICE);
	if (!channel->slot_count)
		return -ENODEV;

	vdxgk_register_write(dev, VDXGK_REG_CONTROL, VDXGK_CONTROL_RESET);
	ret = read_poll_timeout(vdxgk_register_read, status,
				status & VDXGK_STATUS_READY, 100,
				READY_TIMEOUT_US, false, dev,
				VDXGK_REG_STATUS);
	if (ret || status == U32_MAX) {
		dev_err(&dev->pdev->dev,
			"the device did not become ready after a reset (status %#x)\n",
			status);
		return -ENODEV;
	}
	channel->producer =
		READ_ONCE(dev->rings[VDXGK_RING_REQUESTS].producer);
	channel->consumer =
		READ_ONCE(dev->rings[VDXGK_RING_COMPLETIONS].consumer);
	channel->dead = false;
	drain(dev);
	return 0;
}

/* Called with channel->lock held. */
static struct vdxgk_slot *take_slot(struct vdxgk_channel *channel)
{
	unsigned int i;

	for (i = 0; i < channel->slot_count; i++) {
		struct vdxgk_slot *slot = &channel->slots[i];

		if (slot->cookie)
			continue;
		channel->last_cookie += VDXGK_CHANNEL_SLOTS;
		slot->cookie = channel->last_cookie + i;
		slot->answered = false;
		reinit_completion(&slot->done);
		return slot;
	}
	return NULL;
}

/* NULL: the channel is dead. */
static struct vdxgk_slot *wait_for_slot(struct vdxgk_channel *channel)
{
	struct vdxgk_slot *slot = NULL;

	spin_lock_irq(&channel->lock);
	wait_event_lock_irq(channel->slot_free,
			    channel->dead || (slot = take_slot(channel)),
			    channel->lock);
	spin_unlock_irq(&channel->lock);
	return slot;
}

static void put_slot(struct vdxgk_channel *channel, struct vdxgk_slot *slot)
{
	spin_lock_irq(&channel->lock);
	slot->cookie = 0;
	spin_unlock_irq(&channel->lock);
	wake_up(&channel->slot_free);
}

static void publish(struct vdxgk_device *dev,
		    const struct vdxgk_request *request)
{
	struct vdxgk_channel *channel = &dev->channel;
	struct vdxgk_ring *ring = &dev->rings[VDXGK_RING_REQUESTS];

	spin_lock_irq(&channel->lock);
	request_entries(dev)[channel->producer & RING_MASK] = *request;
	virt_wmb(); /* the entry before the index */
	WRITE_ONCE(ring->producer, ++channel->producer);
	channel->requests++;
	virt_mb(); /* the index before the question */
	if (READ_ONCE(ring->notify)) {
		channel->doorbells++;
		vdxgk_register_write(dev, VDXGK_REG_CHANNEL_DOORBELL, 1);
	}
	spin_unlock_irq(&channel->lock);
}

static void copy_answer(struct vdxgk_device *dev, struct vdxgk_call *call,
			const struct vdxgk_completion *answer,
			const void *bulk)
{
	u32 count = answer->data_count;

	memcpy(call->result, answer->result, sizeof(call->result));
	call->data_count = 0;
	if (!call->list_out || !NT_SUCCESS(answer->status))
		return;
	count = min_t(u32, count, vdxgk_list_room(call->entry_size));
	count = min_t(u32, count, call->list_out_size / call->entry_size);
	memcpy(call->list_out, bulk, count * call->entry_size);
	call->data_count = count;
}

/*
 * Put one request and wait for its answer, a minute at most.
 *
 * Returns the backend's NTSTATUS; STATUS_DEVICE_NOT_CONNECTED once the
 * channel is dead, STATUS_IO_TIMEOUT for the request that it died of.
 */
NTSTATUS vdxgk_call(struct vdxgk_device *dev, struct vdxgk_call *call)
{
	struct vdxgk_channel *channel = &dev->channel;
	struct vdxgk_request request = { .op = call->op };
	struct vdxgk_slot *slot;
	NTSTATUS status;
	unsigned int index;

	memset(call->result, 0, sizeof(call->result));
	call->data_count = 0;
	if (WARN_ON_ONCE(call->args_size > sizeof(request.args) ||
			 call->list_in_size > VDXGK_BULK_SLICE))
		return STATUS_INTERNAL_ERROR;
	slot = wait_for_slot(channel);
	if (!slot)
		return STATUS_DEVICE_NOT_CONNECTED;
	index = slot - channel->slots;

	request.cookie = slot->cookie;
	memcpy(request.args, call->args, call->args_size);
	if (call->list_in_size || call->list_out) {
		request.data_offset = index * VDXGK_BULK_SLICE;
		request.data_size = call->list_out ? VDXGK_BULK_SLICE :
						     call->list_in_size;
		memcpy(slice(dev, index), call->list_in, call->list_in_size);
	}
	publish(dev, &request);

	if (!wait_for_completion_timeout(&slot->done, ANSWER_TIMEOUT))
		drain(dev); /* perhaps only the interrupt was lost */
	if (slot->answered) {
		copy_answer(dev, call, &slot->answer, slice(dev, index));
		status = slot->answer.status;
	} else if (channel->dead) {
		status = STATUS_DEVICE_NOT_CONNECTED;
	} else {
		dev_err(&dev->pdev->dev,
			"request %u got no answer (device status %#x): the channel is dead\n",
			call->op, vdxgk_register_read(dev, VDXGK_REG_STATUS));
		vdxgk_channel_kill(dev);
		status = STATUS_IO_TIMEOUT;
	}
	put_slot(channel, slot);
	return status;
}

NTSTATUS vdxgk_call_simple(struct vdxgk_device *dev, u32 op, const void *args,
			   size_t args_size)
{
	struct vdxgk_call call = {
		.op = op,
		.args = args,
		.args_size = args_size,
	};

	return vdxgk_call(dev, &call);
}

/*
 * The rest of a list of `total` entries, of which `have` are there already.
 */
NTSTATUS vdxgk_read_list(struct vdxgk_device *dev, u64 handle, void *list,
			 size_t entry_size, u32 have, u32 total)
{
	while (have < total) {
		struct vdxgk_query_list_args args = {
			.handle = handle,
			.first = have,
		};
		struct vdxgk_call call = {
			.op = VDXGK_OP_QUERY_LIST,
			.args = &args,
			.args_size = sizeof(args),
			.list_out = list + have * entry_size,
			.list_out_size = (size_t)(total - have) * entry_size,
			.entry_size = entry_size,
		};
		NTSTATUS status = vdxgk_call(dev, &call);

		if (!NT_SUCCESS(status))
			return status;
		if (!call.data_count)
			return STATUS_DEVICE_PROTOCOL_ERROR;
		have += call.data_count;
	}
	return STATUS_SUCCESS;
}
