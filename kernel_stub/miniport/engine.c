// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * The DMA engine's two rings.  Submitting never waits: a command gets a
 * fence, and polling the fence tells how it went.
 *
 * The device writes to the shared memory at any time, so each field is read
 * once, and what it says is checked against what this side knows.
 */
#include "miniport.h"

#define RING_MASK (VDXGK_RING_ENTRIES - 1)

static volatile struct vdxgk_ring *ring(struct miniport_engine *engine,
					unsigned int index)
{
	return (volatile struct vdxgk_ring *)engine->shared + index;
}

static void full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static struct miniport_fence *fence_slot(struct miniport_engine *engine,
					 vdxgk_u64 fence)
{
	return &engine->fences[fence & RING_MASK];
}

NTSTATUS miniport_engine_start(struct miniport *mp)
{
	struct miniport_engine *engine = &mp->engine;
	PHYSICAL_ADDRESS at;
	PVOID address;
	NTSTATUS status;

	__builtin_memset(engine, 0, sizeof(*engine));
	at.QuadPart = mp->bar.QuadPart + mp->cap.registers_offset;
	status = mp->dxgkrnl.DxgkCbMapMemory(mp->dxgkrnl.DeviceHandle, at,
					     VDXGK_REG_PAGE_SIZE, 0, 0,
					     MmNonCached, &address);
	if (!NT_SUCCESS(status))
		return status;
	engine->registers = address;

	/* The shared memory is the host's memory behind a BAR: coherent. */
	at.QuadPart = mp->bar.QuadPart + mp->cap.shared_offset;
	status = mp->dxgkrnl.DxgkCbMapMemory(mp->dxgkrnl.DeviceHandle, at,
					     VDXGK_SHARED_BULK, 0, 0, MmCached,
					     &address);
	if (!NT_SUCCESS(status)) {
		miniport_engine_stop(mp);
		return status;
	}
	engine->shared = address;
	engine->command_producer = ring(engine, VDXGK_RING_COMMANDS)->producer;
	engine->completion_consumer =
		ring(engine, VDXGK_RING_COMMAND_COMPLETIONS)->consumer;
	return STATUS_SUCCESS;
}

void miniport_engine_stop(struct miniport *mp)
{
	struct miniport_engine *engine = &mp->engine;

	if (engine->shared)
		mp->dxgkrnl.DxgkCbUnmapMemory(mp->dxgkrnl.DeviceHandle,
					      engine->shared);
	if (engine->registers)
		mp->dxgkrnl.DxgkCbUnmapMemory(mp->dxgkrnl.DeviceHandle,
					      (PVOID)engine->registers);
	engine->shared = (UCHAR *)0;
	engine->registers = (volatile vdxgk_u32 *)0;
}

SIZE_T miniport_framebuffer_size(struct miniport_engine *engine)
{
	return (SIZE_T)engine->registers[VDXGK_REG_FRAMEBUFFER_PAGES / 4] << 12;
}

static void take_completion(struct miniport_engine *engine,
			    const struct vdxgk_engine_completion *completion)
{
	struct miniport_fence *slot = fence_slot(engine, completion->fence);

	if (slot->state != MINIPORT_FENCE_PENDING ||
	    slot->completion.fence != completion->fence)
		return; /* not one of ours */
	slot->completion = *completion;
	slot->state = MINIPORT_FENCE_DONE;
}

static void drain(struct miniport_engine *engine)
{
	volatile struct vdxgk_ring *r =
		ring(engine, VDXGK_RING_COMMAND_COMPLETIONS);
	struct vdxgk_engine_completion *entries =
		(void *)(engine->shared + VDXGK_SHARED_COMMAND_COMPLETIONS);
	vdxgk_u32 producer = r->producer;
	struct vdxgk_engine_completion copy;

	if (producer - engine->completion_consumer > VDXGK_RING_ENTRIES) {
		engine->broken = 1;
		return;
	}
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	while (engine->completion_consumer != producer) {
		__builtin_memcpy(
			&copy,
			&entries[engine->completion_consumer & RING_MASK],
			sizeof(copy));
		/* From here on only the copy counts. */
		__asm__ __volatile__("" : : : "memory");
		take_completion(engine, &copy);
		engine->completion_consumer++;
	}
	__atomic_thread_fence(__ATOMIC_RELEASE);
	r->consumer = engine->completion_consumer;
}

static BOOLEAN busy(const struct miniport_engine *engine)
{
	ULONG i;

	for (i = 0; i < VDXGK_RING_ENTRIES; i++)
		if (engine->fences[i].state == MINIPORT_FENCE_PENDING)
			return 1;
	return 0;
}

/*
 * Wait until the engine is done with all commands: afterwards it touches no
 * memory.  Bounded, since a device may be silent for ever.
 */
NTSTATUS miniport_engine_quiesce(struct miniport_engine *engine)
{
	LARGE_INTEGER millisecond = { .QuadPart = -10000 };
	ULONG left;

	for (left = MINIPORT_QUIESCE_MS; left; left--) {
		drain(engine);
		if (!busy(engine))
			return STATUS_SUCCESS;
		if (engine->broken)
			return STATUS_DEVICE_PROTOCOL_ERROR;
		KeDelayExecutionThread(0, 0, &millisecond);
	}
	return STATUS_IO_TIMEOUT;
}

/*
 * Guarantees: on success the command is in the ring, its fence is in
 * command->fence, and the doorbell is rung if the engine sleeps.
 * STATUS_DEVICE_BUSY: as many commands as the ring holds are pending.
 */
NTSTATUS miniport_engine_submit(struct miniport_engine *engine,
				struct vdxgk_engine_command *command)
{
	volatile struct vdxgk_ring *r = ring(engine, VDXGK_RING_COMMANDS);
	struct vdxgk_engine_command *entries =
		(void *)(engine->shared + VDXGK_SHARED_COMMANDS);
	vdxgk_u64 fence = engine->last_fence + 1;
	struct miniport_fence *slot = fence_slot(engine, fence);
	vdxgk_u32 waiting;

	drain(engine);
	if (engine->broken)
		return STATUS_DEVICE_PROTOCOL_ERROR;
	waiting = engine->command_producer - r->consumer;
	if (waiting > VDXGK_RING_ENTRIES) {
		engine->broken = 1;
		return STATUS_DEVICE_PROTOCOL_ERROR;
	}
	/* A result that nobody came for in 256 commands makes room. */
	if (waiting == VDXGK_RING_ENTRIES ||
	    slot->state == MINIPORT_FENCE_PENDING)
		return STATUS_DEVICE_BUSY;

	/* Nobody waits while nothing is outstanding. A waiter relies on the
	 * interrupt, so this is the only place where it may be turned off. */
	if (!engine->outstanding)
		ring(engine, VDXGK_RING_COMMAND_COMPLETIONS)->notify = 0;
	if (slot->state == MINIPORT_FENCE_FREE)
		engine->outstanding++;

	command->fence = fence;
	__builtin_memcpy(&entries[engine->command_producer & RING_MASK],
			 command, sizeof(*command));
	slot->state = MINIPORT_FENCE_PENDING;
	slot->completion.fence = fence;
	engine->last_fence = fence;

	__atomic_thread_fence(__ATOMIC_RELEASE);
	r->producer = ++engine->command_producer;
	full_barrier();
	if (r->notify)
		engine->registers[VDXGK_REG_ENGINE_DOORBELL / 4] = 1;
	return STATUS_SUCCESS;
}

/*
 * Guarantees: where the answer is STATUS_PENDING, the next completion raises
 * an interrupt.
 */
NTSTATUS miniport_engine_poll(struct miniport_engine *engine,
			      struct vdxgk_engine_completion *completion)
{
	volatile struct vdxgk_ring *r =
		ring(engine, VDXGK_RING_COMMAND_COMPLETIONS);
	struct miniport_fence *slot = fence_slot(engine, completion->fence);

	if (slot->state == MINIPORT_FENCE_FREE ||
	    slot->completion.fence != completion->fence)
		return STATUS_NOT_FOUND;
	if (slot->state == MINIPORT_FENCE_PENDING)
		drain(engine);
	if (slot->state == MINIPORT_FENCE_PENDING && !engine->broken) {
		r->notify = 1;
		full_barrier();
		drain(engine);
	}
	if (slot->state == MINIPORT_FENCE_PENDING)
		return engine->broken ? STATUS_DEVICE_PROTOCOL_ERROR :
					STATUS_PENDING;
	*completion = slot->completion;
	slot->state = MINIPORT_FENCE_FREE;
	engine->outstanding--;
	return STATUS_SUCCESS;
}
