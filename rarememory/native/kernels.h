// The kernels' names in the library: each is compiled for several instruction sets, and says for which.

#pragma once

#ifdef INSTRUCTION_SET
#define RAREMEMORY_JOINED(set, name) rarememory_##set##_##name
#define RAREMEMORY_NAMED(set, name) RAREMEMORY_JOINED(set, name)
#define rarememory_blend RAREMEMORY_NAMED(INSTRUCTION_SET, blend)
#define rarememory_code RAREMEMORY_NAMED(INSTRUCTION_SET, code)
#define rarememory_certainty RAREMEMORY_NAMED(INSTRUCTION_SET, certainty)
#define rarememory_decide RAREMEMORY_NAMED(INSTRUCTION_SET, decide)
#define rarememory_discriminate RAREMEMORY_NAMED(INSTRUCTION_SET, discriminate)
#define rarememory_evict RAREMEMORY_NAMED(INSTRUCTION_SET, evict)
#define rarememory_evict_oldest RAREMEMORY_NAMED(INSTRUCTION_SET, evict_oldest)
#define rarememory_mark RAREMEMORY_NAMED(INSTRUCTION_SET, mark)
#define rarememory_nearest RAREMEMORY_NAMED(INSTRUCTION_SET, nearest)
#define rarememory_nearest_coded RAREMEMORY_NAMED(INSTRUCTION_SET, nearest_coded)
#define rarememory_nearest_pair RAREMEMORY_NAMED(INSTRUCTION_SET, nearest_pair)
#define rarememory_nearest_pair_coded RAREMEMORY_NAMED(INSTRUCTION_SET, nearest_pair_coded)
#define rarememory_noise RAREMEMORY_NAMED(INSTRUCTION_SET, noise)
#define rarememory_norms RAREMEMORY_NAMED(INSTRUCTION_SET, norms)
#define rarememory_normalize RAREMEMORY_NAMED(INSTRUCTION_SET, normalize)
#define rarememory_rank RAREMEMORY_NAMED(INSTRUCTION_SET, rank)
#define rarememory_ranked_coded RAREMEMORY_NAMED(INSTRUCTION_SET, ranked_coded)
#define rarememory_read RAREMEMORY_NAMED(INSTRUCTION_SET, read)
#define rarememory_read_pair RAREMEMORY_NAMED(INSTRUCTION_SET, read_pair)
#define rarememory_read_each RAREMEMORY_NAMED(INSTRUCTION_SET, read_each)
#define rarememory_read_pair_each RAREMEMORY_NAMED(INSTRUCTION_SET, read_pair_each)
#define rarememory_score RAREMEMORY_NAMED(INSTRUCTION_SET, score)
#define rarememory_write_at_once RAREMEMORY_NAMED(INSTRUCTION_SET, write_at_once)
#define rarememory_write_each RAREMEMORY_NAMED(INSTRUCTION_SET, write_each)
#define rarememory_write RAREMEMORY_NAMED(INSTRUCTION_SET, write)
#endif
