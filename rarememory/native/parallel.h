// Work shared by threads, each with one part of it.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace rarememory {

/// Threads worth their while: those that wait actively are there at once, others have to be woken.
inline int worth(int threads, int64_t batch, int64_t slots, int64_t dim) {
    static const char* policy = std::getenv("OMP_WAIT_POLICY");
    static const bool asleep = policy && (*policy == 'p' || *policy == 'P');
    return int(std::clamp<int64_t>(batch * slots * dim >> (asleep ? 20 : 18), 1, threads));
}

/// Calls `work(begin, end)` for as many parts of so many rows as there are threads. A thread alone
/// does without OpenMP, where a team of one still costs system calls.
template <class Work>
inline void in_parts(int64_t count, int threads, Work work) {
    if (threads <= 1) return work(int64_t(0), count);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; ++part)
        work(count * part / threads, count * (part + 1) / threads);
}

/// Calls `work(row)` for each of so many rows.
template <class Work>
inline void for_each(int64_t count, int threads, Work work) {
    in_parts(count, threads, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) work(row);
    });
}

}  // namespace rarememory
