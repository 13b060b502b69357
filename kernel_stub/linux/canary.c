// SPDX-License-Identifier: (GPL-2.0-only OR MIT)
/*
 * Canaries: a donated page that no object owns holds one word, derived from
 * its address, all over.  Whoever writes there by mistake (a wrong mapping, a
 * wrong length) leaves a trace that names the place.
 */
#include <linux/hash.h>
#include <linux/highmem.h>
#include <linux/string.h>

#include "vdxgk.h"

#define CANARY 0x5ca1ab1e0ddba115ull

static u64 pattern(u64 gpa)
{
	return CANARY ^ (gpa >> PAGE_SHIFT) * GOLDEN_RATIO_64;
}

void vdxgk_canary_write(u64 gpa, unsigned long pages)
{
	for (; pages; pages--, gpa += PAGE_SIZE) {
		void *at = kmap_local_page(pfn_to_page(gpa >> PAGE_SHIFT));

		memset64(at, pattern(gpa), PAGE_SIZE / sizeof(u64));
		kunmap_local(at);
		cond_resched();
	}
}

static void check_page(u64 gpa, struct vdxgk_damage *damage)
{
	const u64 *at = kmap_local_page(pfn_to_page(gpa >> PAGE_SHIFT));
	u64 expected = pattern(gpa);
	unsigned int i;

	for (i = 0; i < PAGE_SIZE / sizeof(u64); i++) {
		u64 found = READ_ONCE(at[i]);

		if (found == expected)
			continue;
		if (damage->first == VDXGK_NO_ADDRESS) {
			damage->first = gpa + i * sizeof(u64);
			damage->expected = expected;
			damage->found = found;
		}
		damage->pages++;
		break;
	}
	kunmap_local(at);
}

/* Adds what it finds to `damage`. */
void vdxgk_canary_check(u64 gpa, unsigned long pages,
			struct vdxgk_damage *damage)
{
	for (; pages; pages--, gpa += PAGE_SIZE) {
		check_page(gpa, damage);
		cond_resched();
	}
}
