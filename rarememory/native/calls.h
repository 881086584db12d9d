// Kernels that other kernels call. A definition that differs from its declaration does not compile.

#pragma once

#include <cstdint>

#include "kernels.h"

extern "C" void rarememory_blend(const float* scores, int64_t batch, int64_t k,
                                 const int64_t* columns, int64_t stride, const float* logits,
                                 int64_t n_host, const int64_t* host_columns,
                                 const float* temperature, const float* host_score, float found,
                                 const float* host_weight, const float* host_bias,
                                 const float* host_terms, int64_t classes,
                                 float nothing, int threads, float* z, int64_t* likeliest);

extern "C" int64_t rarememory_discriminate(const float* features, int64_t batch, int64_t dim,
                                           bool by_roots, const float* mean, const float* center,
                                           const float* metric, int64_t axes,
                                           const float* precision, float outside,
                                           const float* weights, const float* bias,
                                           const float* change, const float* more,
                                           const float* offsets, int64_t classes, int threads,
                                           float* logits);

extern "C" void rarememory_mark(const int64_t* values, int64_t slots, const int64_t* labels,
                                int64_t count, const bool* mask, int threads, bool* marks);

extern "C" void rarememory_nearest(const float* queries, int64_t batch, const float* keys,
                                   int64_t slots, int64_t dim, const bool* marks, int64_t stride,
                                   int64_t k, float tolerance, int threads, int64_t* found);

extern "C" int64_t rarememory_nearest_coded(const float* queries, int64_t batch, const float* keys,
                                            int64_t slots, int64_t dim, const uint8_t* bytes,
                                            const float* steps, const float* off,
                                            const uint8_t* rows, const bool* occupied, int64_t k,
                                            float tolerance, int threads,
                                            const int64_t* sampled, int64_t samples,
                                            int64_t* found);

extern "C" void rarememory_nearest_pair(const float* queries, int64_t batch, const float* keys,
                                        int64_t slots, int64_t dim, const int64_t* values,
                                        const int64_t* labels, float tolerance, int threads,
                                        int64_t* positive, int64_t* negative);

extern "C" int64_t rarememory_nearest_pair_coded(
    const float* queries, int64_t batch, const float* keys, int64_t slots, int64_t dim,
    const uint8_t* bytes, const float* steps, const float* off, const int64_t* values,
    const int64_t* labels, float tolerance, int threads, const int64_t* sampled, int64_t samples,
    int64_t* positive, int64_t* negative);

extern "C" void rarememory_rank(const float* queries, int64_t batch, const float* keys, int64_t dim,
                                const int64_t* values, int64_t* slots, int64_t k, int threads,
                                float* scores, int64_t* found_values);

extern "C" int64_t rarememory_ranked_coded(const float* queries, int64_t batch, const float* keys,
                                           int64_t slots, int64_t dim, const uint8_t* bytes,
                                           const float* steps, const float* off,
                                           const uint8_t* rows, const bool* occupied,
                                           const int64_t* values, int64_t k, float tolerance,
                                           int threads, const int64_t* sampled, int64_t samples,
                                           int64_t* found, float* scores, int64_t* found_values);

extern "C" int64_t rarememory_read(const float* queries, int64_t batch, const float* keys,
                                   int64_t slots, int64_t dim, const uint8_t* bytes,
                                   const float* steps, const float* off, const uint8_t* rows,
                                   const int64_t* values, const int64_t* labels, int64_t count,
                                   const bool* mask, int64_t k, float tolerance, int threads,
                                   const int64_t* sampled, int64_t samples, float* units,
                                   int64_t* found, float* scores, int64_t* found_values);

extern "C" int64_t rarememory_read_pair(const float* queries, int64_t batch, const float* keys,
                                        int64_t slots, int64_t dim, const uint8_t* bytes,
                                        const float* steps, const float* off, const int64_t* values,
                                        const int64_t* labels, float margin, float tolerance,
                                        int threads, const int64_t* sampled, int64_t samples,
                                        float* units, int64_t* found, float* scores,
                                        int64_t* found_values, float* found_keys, float* slopes,
                                        float* gradient, float* loss);

extern "C" int64_t rarememory_write_at_once(float* keys, int64_t size, int64_t dim,
                                            int64_t* values, int64_t* written, int64_t* clock,
                                            const int64_t* seed, const float* queries,
                                            const int64_t* labels, int64_t batch,
                                            const int64_t* nearest, int64_t step, int averages,
                                            double age_weight, double noise_weight,
                                            double shortest, int64_t* slots, bool* hits,
                                            int64_t* overwritten);
