/* A histogram of times in nanoseconds. A bucket is narrower than 1/128 of its values: percentiles are within 0.8 %. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

enum { SUB_BITS = 7, SUBS = 1 << SUB_BITS, BUCKETS = (65 - SUB_BITS) * SUBS };

typedef struct {
    uint64_t counts[BUCKETS], total;
} Histogram;

static inline void histogram_add(Histogram *histogram, uint64_t ns) {
    int shift = ns < SUBS ? 0 : 63 - __builtin_clzll(ns) - SUB_BITS; /* ns >> shift is below 2 * SUBS */
    histogram->counts[shift * SUBS + (ns >> shift)]++;
    histogram->total++;
}

/* The quantile for a `share` from 0 to 1, in nanoseconds: the middle of its bucket; 0 without any time. */
static inline double histogram_quantile(const Histogram *histogram, double share) {
    uint64_t rank = (uint64_t)(share * histogram->total), seen = 0;
    for (int index = 0; index < BUCKETS; index++) {
        seen += histogram->counts[index];
        if (seen > rank) {
            int shift = index < 2 * SUBS ? 0 : index / SUBS - 1;
            uint64_t lowest = (uint64_t)(index - shift * SUBS) << shift;
            return lowest + ((1ull << shift) - 1) / 2.0;
        }
    }
    return 0;
}

#endif
