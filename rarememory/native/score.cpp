// Scores of given slots, for the order of the neighbours.

#include "parallel.h"
#include "vectors.h"

using namespace rarememory;

extern "C" void rarememory_score(const float* queries, int64_t batch, const float* keys,
                                 int64_t dim, const int64_t* slots, int64_t k, int threads,
                                 float* scores) {
    threads = worth(threads, batch, k, dim);
    for_each(batch * k, threads, [&](int64_t i) {
        scores[i] = slots[i] == EMPTY
                        ? -INFINITE
                        : exact_score(queries + i / k * dim, keys + slots[i] * dim, dim);
    });
}
