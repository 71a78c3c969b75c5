/* A spiking layer in one pass over memory each way:

       c_t = gain (scale x_t + shift)     a batch norm's, where the layer has one; and a shortcut's on the current
       h_t = charge(v_{t-1}, c_t),   s_t = [h_t >= threshold],   v_t = (1 - s_t) h_t,   v_0 = 0
       o_t = g(s_t, identity_t)           where the layer ends a residual block

   The backward pass computes h_t again from x, and then, with the reset detached,

       dL/ds_t = dL/do_t dg/ds
       dL/dh_t = dL/ds_t surrogate'(h_t - threshold) + dL/dv_t (1 - s_t)

   Elements are taken in blocks that stay in the first cache for all time steps. What is done to a block is a loop over
   its elements, which the compiler turns into vectors. Nothing is contracted but what is written as FMA: the spikes are
   those of torch's batch norm and spikingjelly's neurons bit for bit.

   BITS, of an element, is 16 (bfloat16, integrated in float), 32 or 64. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if BITS == 64
typedef double real, stored;
typedef int64_t whole;
enum { MANTISSA = 52, TERMS = 12 };
#else
typedef float real;
typedef int32_t whole;
enum { MANTISSA = 23, TERMS = 7 };
#endif

#if !defined FP_FAST_FMA /* then in software */
#define FMA(a, b, c) ((a) * (b) + (c))
#elif BITS == 64
#define FMA fma
#else
#define FMA fmaf
#endif

#if BITS == 16
typedef uint16_t stored;

static inline real load(stored x) {
    uint32_t bits = (uint32_t)x << 16;
    real value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline stored store(real x) { /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#else
#if BITS == 32
typedef float stored;
#endif
#define load(x) (x)
#define store(x) (x)
#endif

enum { ADD, MULTIPLY, DIVIDE }; /* h = v + c, v + (c - v) rate, v + (c - v) / rate */
enum { SIGMOID, ATAN };
enum { X, IDENTITY, O, S, GRAD_C, GRAD_IDENTITY, MAPS }; /* O and S are gradients in the backward pass */

/* Maps are [steps, outer, channels, inner], X and GRAD_C of a single step if still; those that are not there are null. */
typedef struct {
    int64_t steps, outer, channels, inner;
    int32_t threads, still, charge, surrogate, on_current, learned;
    double rate, take, keep; /* dc = take dh, dv = keep dh */
    double threshold, gain, alpha;
    double none, by_s, by_o, by_both; /* g(s, o) = none + by_s s + by_o o + by_both s o, where S is there */
    stored *maps[MAPS];
    const real *scale, *shift, *mean; /* [channels] */
    double *sums;                     /* [threads, 2 channels + 1], zeros: of dL/dc, of dL/dc (x - mean), and dL/dq */
} Layer;

enum { SCALE, SHIFT, MEAN, SUM_C, SUM_CX, GRAD_Q, ZERO, C, G, TOTAL, GRAD_V, H }; /* H + t has h_t, H has v_0 = 0 */

typedef struct {
    int64_t start, channel; /* of the first element in each step, and, unless channels lie last, of all */
    int n, width;           /* elements, and at most */
    real *room;             /* [H + 1 + steps, width] */
} Block;

#define EACH _Pragma("omp simd") for (int i = 0; i < n; i++)
#define ROW(k) (b->room + (k) * b->width)

static inline stored *at(const Layer *l, const Block *b, int map, int64_t t) {
    const int64_t step = l->outer * l->channels * l->inner;
    return l->maps[map] + b->start + (l->still && (map == X || map == GRAD_C) ? 0 : t * step);
}

/* Fetch maps at step t, or at the next block's first: the processor foresees neither. */
static void prefetch(const Layer *l, const Block *b, int64_t t, int maps) {
    for (int k = 0; k < maps; k++) {
        const stored *first = t < l->steps ? at(l, b, k, t) : at(l, b, k, 0) + b->width;
        for (int i = 0; l->maps[k] && i < b->width; i += 64 / sizeof(stored)) __builtin_prefetch(first + i);
    }
}

static void currents(const Layer *l, const Block *b, int64_t t, real *c) {
    const int n = b->n;
    const real gain = l->gain, *scale = ROW(SCALE), *shift = ROW(SHIFT);
    const stored *x = at(l, b, X, t), *identity = at(l, b, IDENTITY, t);
    if (l->on_current) EACH c[i] = (FMA(load(x[i]), scale[i], shift[i]) + load(identity[i])) * gain;
    else EACH c[i] = FMA(load(x[i]), scale[i], shift[i]) * gain;
}

static void charge(const Layer *l, const Block *b, int64_t t) {
    const int n = b->n;
    const real rate = l->rate, threshold = l->threshold, *before = ROW(H + t);
    real *h = ROW(H + t + 1);
    currents(l, b, t, h);
#define CHARGE(charged) EACH { real v = before[i] >= threshold ? 0 : before[i], c = h[i]; h[i] = charged; }
    if (l->charge == ADD) CHARGE(v + c)
    else if (l->charge == MULTIPLY) CHARGE(v + (c - v) * rate)
    else CHARGE(v + (c - v) / rate)
}

static void fire(const Layer *l, const Block *b, int64_t t) {
    const int n = b->n;
    const real threshold = l->threshold, *h = ROW(H + t + 1);
    const real none = l->none, some = none + l->by_s, by_o = l->by_o, by_both = by_o + l->by_both;
    const stored *identity = at(l, b, IDENTITY, t), fired = store(1), silent = store(0);
    stored *o = at(l, b, O, t), *s = at(l, b, S, t);
    if (l->maps[S]) EACH {
        int fires = h[i] >= threshold;
        o[i] = store(FMA(load(identity[i]), fires ? by_both : by_o, fires ? some : none));
        s[i] = fires ? fired : silent;
    }
    else EACH o[i] = h[i] >= threshold ? fired : silent;
}

static void integrate_and_fire(const Layer *l, const Block *b) {
    for (int64_t t = 0; t < l->steps; t++) {
        prefetch(l, b, t + 1, GRAD_C);
        charge(l, b, t);
        fire(l, b, t);
    }
}

/* exp(x) for |x| <= 80: 2^n times the series of e^r, |r| <= log(2) / 2. */
static inline real exponential(real x) {
    const real round = 1.5 * ((int64_t)1 << MANTISSA), high = BITS == 64 ? 0x1.62e42feep-1 : 0x1.62e4p-1;
    real shifted = FMA(x, (real)1.4426950408889634, round), n = shifted - round;
    real r = FMA(-n, (real)(M_LN2 - high), FMA(-n, high, x)), sum = 1;
#pragma GCC unroll 12 /* before loops become vectors */
    for (int i = TERMS; i > 0; i--) sum = FMA(sum, r * (real)(1.0 / i), 1);
    whole power, bits;
    memcpy(&power, &shifted, sizeof power);
    memcpy(&bits, &sum, sizeof bits);
    bits += power << MANTISSA;
    memcpy(&sum, &bits, sizeof sum);
    return sum;
}

/* The surrogate's derivative at a distance u from the threshold. */
static inline real slope(const int surrogate, real alpha, real u) {
    if (surrogate == ATAN) {
        real z = u * (alpha * (real)M_PI_2);
        return alpha / 2 / FMA(z, z, 1);
    }
#if BITS == 16
    /* alpha s (1 - s) = (alpha/4) / cosh(y)^2 with y = alpha u / 2, and cosh(y) = 1 + 2 sinh(y/2)^2 by the series of
       sinh: off by up to 6e-5 for |alpha u| < 8. Where bytes are few, an exponential is what would take the time. */
    real half = u * (alpha / 4), w = half * half;
    real sinh = FMA(w, FMA(w, FMA(w, FMA(w, 1.f / 362880, 1.f / 5040), 1.f / 120), 1.f / 6), 1);
    real cosh = FMA(sinh * sinh, 2 * w, 1);
    return alpha / 4 / (cosh * cosh);
#else
    real y = -alpha * u, s = 1 / (1 + exponential(y > 80 ? 80 : y < -80 ? -80 : y));
    return (1 - s) * s * alpha;
#endif
}

/* G = dL/dh_t from dL/do_t; the first two are constants. */
static inline __attribute__((always_inline)) void step_back(
    const int on_spikes, const int surrogate, const Layer *l, const Block *b, int64_t t) {
    const int n = b->n;
    const real threshold = l->threshold, alpha = l->alpha, keep = l->keep;
    const real by_s = l->by_s, by_both = l->by_both, silent = l->by_o, fired = silent + by_both;
    const stored *identity = at(l, b, IDENTITY, t), *grad_o = at(l, b, O, t);
    const stored *grad_s = l->maps[S] ? at(l, b, S, t) : (stored *)ROW(ZERO);
    stored *grad_identity = at(l, b, GRAD_IDENTITY, t);
    const real *h = ROW(H + t + 1);
    real *g = ROW(G), *grad_v = ROW(GRAD_V);
    EACH {
        int fires = h[i] >= threshold;
        real grad = load(grad_o[i]);
        if (on_spikes) {
            grad_identity[i] = store(grad * (fires ? fired : silent));
            grad = FMA(grad, FMA(load(identity[i]), by_both, by_s), load(grad_s[i]));
        }
        g[i] = FMA(grad, slope(surrogate, alpha, h[i] - threshold), fires ? 0 : grad_v[i]);
        grad_v[i] = g[i] * keep;
    }
}

static void back(const Layer *l, const Block *b) {
    const int n = b->n;
    const real factor = l->take * l->gain, threshold = l->threshold;
    for (int64_t t = 0; t < l->steps; t++) {
        if (t + 1 < l->steps) prefetch(l, b, t + 1, IDENTITY);
        else prefetch(l, b, t, MAPS);
        charge(l, b, t);
    }
    memset(ROW(GRAD_V), 0, n * sizeof(real));
    for (int64_t t = l->steps - 1; t >= 0; t--) {
        if (t) prefetch(l, b, t - 1, MAPS);
        else prefetch(l, b, l->steps, IDENTITY);
        if (l->maps[GRAD_IDENTITY] && l->surrogate == ATAN) step_back(1, ATAN, l, b, t);
        else if (l->maps[GRAD_IDENTITY]) step_back(1, SIGMOID, l, b, t);
        else if (l->surrogate == ATAN) step_back(0, ATAN, l, b, t);
        else step_back(0, SIGMOID, l, b, t);
        real *g = ROW(G), *total = ROW(TOTAL), *grad_q = ROW(GRAD_Q);
        if (l->learned) {
            const real *c = ROW(C), *before = ROW(H + t);
            currents(l, b, t, ROW(C));
            EACH grad_q[i] = FMA(g[i], c[i] - (before[i] >= threshold ? 0 : before[i]), grad_q[i]);
        }
        EACH total[i] = FMA(g[i], factor, total[i]);
        if (l->still && t) continue;
        const stored *x = at(l, b, X, t);
        const real *mean = ROW(MEAN);
        stored *grad_c = at(l, b, GRAD_C, t);
        real *sum_c = ROW(SUM_C), *sum_cx = ROW(SUM_CX);
        EACH {
            grad_c[i] = store(total[i]);
            sum_c[i] += total[i];
            sum_cx[i] = FMA(total[i], load(x[i]) - mean[i], sum_cx[i]);
            total[i] = 0;
        }
    }
}

/* O <- SCALE O + SHIFT X + MEAN */
static void scale_and_add(const Layer *l, const Block *b) {
    const int n = b->n;
    const real *p = ROW(SCALE), *q = ROW(SHIFT), *r = ROW(MEAN);
    const stored *x = at(l, b, X, 0);
    stored *o = at(l, b, O, 0);
    EACH o[i] = store(FMA(p[i], load(o[i]), FMA(q[i], load(x[i]), r[i])));
}

static int64_t channel(const Layer *l, const Block *b, int i) { return l->inner > 1 ? b->channel : i % l->channels; }

/* Sums by element to sums by channel. */
static void gather(const Layer *l, const Block *b, double *sums) {
    for (int i = 0; i < b->width; i++) {
        sums[channel(l, b, i)] += ROW(SUM_C)[i];
        sums[l->channels + channel(l, b, i)] += ROW(SUM_CX)[i];
        sums[2 * l->channels] += ROW(GRAD_Q)[i];
    }
    memset(ROW(SUM_C), 0, 3 * b->width * sizeof(real));
}

/* Cut the maps into blocks, share them out, and sum over a thread's blocks in their order. */
static void on_blocks(const Layer *l, void (*work)(const Layer *, const Block *)) {
    const int64_t most = 4096 / l->steps < 64 ? 64 : 4096 / l->steps > 512 ? 512 : 4096 / l->steps;
    const int64_t width = l->inner > 1 ? most : l->channels * (most < l->channels ? 1 : most / l->channels);
    const int64_t step = l->outer * l->channels * l->inner, plane = l->inner > 1 ? l->inner : step;
    const int64_t blocks = (plane + width - 1) / width, all = step / plane * blocks;
    const size_t size = ((H + 1 + l->steps) * width * sizeof(real) + 63) / 64 * 64;
#pragma omp parallel num_threads(l->threads)
    {
        const int64_t me = omp_get_thread_num(), threads = omp_get_num_threads();
        const int64_t from = all * me / threads, to = all * (me + 1) / threads;
        Block block = {.width = width, .room = aligned_alloc(64, size)}, *b = &block;
        memset(b->room, 0, size);
        int64_t spread = -1;
        for (int64_t index = from; index < to; index++) {
            const int64_t first = index % blocks * width, left = plane - first;
            b->start = index / blocks * plane + first, b->n = left < width ? left : width;
            b->channel = index / blocks % l->channels;
            for (int i = 0; i < width && b->channel != spread; i++) {
                ROW(SCALE)[i] = l->scale ? l->scale[channel(l, b, i)] : 1;
                ROW(SHIFT)[i] = l->shift ? l->shift[channel(l, b, i)] : 0;
                ROW(MEAN)[i] = l->mean ? l->mean[channel(l, b, i)] : 0;
            }
            spread = b->channel;
            work(l, b);
            if (l->sums && ((index + 1) % blocks == 0 || index + 1 == to || index % 128 == 0)) /* no float grows large */
                gather(l, b, l->sums + me * (2 * l->channels + 1));
        }
        free(b->room);
    }
}

void forward(const Layer *l) { on_blocks(l, integrate_and_fire); }
void backward(const Layer *l) { on_blocks(l, back); }
void apply(const Layer *l) { on_blocks(l, scale_and_add); }
