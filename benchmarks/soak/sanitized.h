// The kernels that sanitized.cpp calls. It is included at the end of each of their sources too: a
// definition that differs from its declaration does not compile.

#pragma once

#include "calls.h"

extern "C" {
void rarememory_code(const float* keys, int64_t slots, int64_t dim, const int64_t* named,
                     int64_t count, uint8_t* bytes, float* steps, float* off, uint8_t* rows,
                     int threads);
void rarememory_certainty(const float* logits, int64_t batch, int64_t n_host,
                          const int64_t* host_ids, int threads, float* certainty);
void rarememory_norms(const float* features, int64_t batch, int64_t dim, float shortest,
                      float longest, int threads, float* norms);
void rarememory_score(const float* queries, int64_t batch, const float* keys, int64_t dim,
                      const int64_t* slots, int64_t k, int threads, float* scores);
int64_t rarememory_normalize(const float* queries, int64_t batch, int64_t dim, float* units);
int64_t rarememory_read_each(int64_t memories, const float* queries, int64_t batch,
                             const float* keys, int64_t slots, int64_t dim, const int64_t* values,
                             int64_t k, float tolerance, int threads, float* units, int64_t* found,
                             float* scores, int64_t* found_values);
int64_t rarememory_read_pair_each(int64_t memories, const float* queries, int64_t batch,
                                  const float* keys, int64_t slots, int64_t dim,
                                  const int64_t* values, const int64_t* labels, float margin,
                                  float tolerance, int threads, float* units, int64_t* found,
                                  float* scores, int64_t* found_values, float* found_keys,
                                  float* slopes, float* gradient, float* loss);
int64_t rarememory_decide(const float* features, int64_t batch, int64_t dim, const float* logits,
                          const float* blend_weights, bool by_roots, const float* mean,
                          const float* center, const float* metric, int64_t axes,
                          const float* precision, float outside,
                          const float* weights, const float* bias, const float* change,
                          const float* more, const float* offsets, int64_t k,
                          const int64_t* columns, int64_t n_host, const int64_t* host_columns,
                          float found, float max_logit_weight, float max_logit_mean,
                          int64_t classes, float nothing, int threads, int64_t* likeliest);
void rarememory_noise(uint64_t state, int64_t count, double* numbers);
void rarememory_evict(const double* priorities, const int64_t* values, int64_t first, int64_t size,
                      const int64_t* keep, int64_t kept, int64_t count, double* chosen_priorities,
                      int64_t* chosen);
void rarememory_evict_oldest(const int64_t* values, const int64_t* written, int64_t clock,
                             uint64_t state, double age_weight, double noise_weight, int64_t size,
                             const int64_t* keep, int64_t kept, int64_t count, int64_t* chosen);
void rarememory_write(float* keys, int64_t dim, int64_t* values, int64_t* written, int64_t* clock,
                      const float* queries, const int64_t* labels, int64_t batch,
                      const int64_t* nearest, const bool* averaged, const bool* inserted,
                      const int64_t* free, int64_t free_count, double shortest, int64_t* slots,
                      int64_t* overwritten);
int64_t rarememory_write_each(int64_t memories, float* keys, int64_t size, int64_t dim,
                              int64_t* values, int64_t* written, int64_t* clock,
                              const int64_t* seed, const float* queries, const int64_t* labels,
                              int64_t batch, const int64_t* nearest, int64_t step, int averages,
                              double age_weight, double noise_weight, double shortest, int threads,
                              int64_t* slots, bool* hits, int64_t* overwritten);
}
