// Scores of given slots, for the order of the neighbours.

#include "vectors.h"

using namespace rarememory;

extern "C" void rarememory_score(const float* queries, int64_t batch, const float* keys,
                                 int64_t dim, const int64_t* slots, int64_t k, int threads,
                                 float* scores) {
    threads = worth(threads, batch, k, dim);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < batch * k; ++i)
        scores[i] = slots[i] == EMPTY
                        ? -INFINITE
                        : exact_score(queries + i / k * dim, keys + slots[i] * dim, dim);
}
