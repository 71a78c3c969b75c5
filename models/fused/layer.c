/* A spiking layer in one pass over memory each way:

       c_t = gain (scale x_t + shift)     a batch norm's, where the layer has one; and a shortcut's on the current
       h_t = charge(v_{t-1}, c_t),   s_t = [h_t >= threshold],   v_t = (1 - s_t) h_t,   v_0 = 0
       o_t = g(s_t, identity_t)           where the layer ends a residual block

   The backward pass computes h_t again from x, and then, with the reset detached,

       dL/ds_t = dL/do_t dg/ds
       dL/dh_t = dL/ds_t surrogate'(h_t - threshold) + dL/dv_t (1 - s_t)

   Elements are taken in blocks that stay in the first cache for all time steps, and each line above is a loop over a
   block, which the compiler turns into vectors. Nothing may be contracted but what is written as FMA: the spikes are
   those of torch's batch norm and spikingjelly's neurons bit for bit.

   Compiled for each type: BITS is 16 for bfloat16, which is integrated in float, 32 or 64. */

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
#if BITS == 32
typedef float stored;
#else
typedef uint16_t stored;
#endif
#endif

#if BITS == 64 && defined FP_FAST_FMA
#define FMA fma
#elif BITS != 64 && defined FP_FAST_FMAF
#define FMA fmaf
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

enum { ADD, MULTIPLY, DIVIDE, LEARNED };  /* h = v + c, v + (c - v) rate, v + (c - v) / rate, and a rate with gradient */
enum { NO_JOIN, ON_CURRENT, ON_SPIKES };
enum { SIGMOID, ATAN };

/* All maps are [steps, outer, channels, inner], x of a single step if still; vectors are [channels]. */
typedef struct {
    int64_t steps, outer, channels, inner;
    int32_t threads, still, charge, join, surrogate;
    double rate, threshold, gain, alpha;
    double none, by_s, by_o, by_both;  /* g(s, o) = none + by_s s + by_o o + by_both s o */
    const stored *x, *identity;
    const real *scale, *shift, *mean;  /* null without a norm */
} Layer;

static inline real load(stored x) {
#if BITS == 16
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#else
    return x;
#endif
}

static inline stored store(real x) {
#if BITS == 16 /* to the nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#else
    return x;
#endif
}

/* exp(x) for -80 <= x <= 0: 2^n times the series of e^r, |r| <= log(2) / 2. */
static inline real exponential(real x) {
    static const real inverse[] = {1, 1, 1. / 2, 1. / 3, 1. / 4, 1. / 5, 1. / 6, 1. / 7, 1. / 8, 1. / 9, 1. / 10, 1. / 11, 1. / 12};
    const real high = BITS == 64 ? 0x1.62e42fee00000p-1 : 0x1.62e400p-1, round = 1.5 * ((int64_t)1 << MANTISSA);
    const real low = BITS == 64 ? 0x1.a39ef35793c76p-33 : 0x1.7f7d1cp-20;
    real shifted = FMA(x, (real)1.4426950408889634, round), n = shifted - round;
    real r = FMA(-n, low, FMA(-n, high, x)), sum = 1;
    for (int i = TERMS; i > 0; i--) sum = FMA(sum, r * inverse[i], 1);
    whole power, bits;
    memcpy(&power, &shifted, sizeof power);
    memcpy(&bits, &sum, sizeof bits);
    bits += power << MANTISSA;
    memcpy(&sum, &bits, sizeof sum);
    return sum;
}

#define EACH for (int i = 0; i < n; i++)

/* The surrogate's derivative at a distance u from the threshold. */
static inline real slope(const int surrogate, real alpha, real u) {
    if (surrogate == ATAN) {
        real z = u * (alpha * (real)(M_PI / 2));
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
    real y = alpha * fabs(u), e = exponential(y > 80 ? -80 : -y);
    return alpha * e / ((1 + e) * (1 + e));
#endif
}

typedef struct {
    int64_t start;                    /* in each time step */
    int n, width;                     /* elements, and at most */
    real *h;                          /* [steps + 1, width], the first is v_0 */
    real *c, *g, *zero, *total, *grad_v, *grad_q;
    const real *scale, *shift, *mean; /* of each element */
    real *sum_c, *sum_cx;
    real *vectors[5];                 /* these five where `start` is the first of a channel, [channels + width] */
} Block;

static stored *at(const Layer *l, const stored *map, int64_t t, const Block *b) {
    return (stored *)map + t * l->outer * l->channels * l->inner + b->start;
}

/* Fetch what maps have at step t, or at the next block's first: the processor foresees neither. */
static void prefetch(const Layer *l, const Block *b, int64_t t, int count, const stored *const *maps) {
    for (int k = 0; k < count; k++) {
        if (!maps[k] || (l->still && maps[k] == l->x)) continue;
        const stored *first = t < l->steps ? at(l, maps[k], t, b) : at(l, maps[k], 0, b) + b->width;
        for (int i = 0; i < b->width; i += 64 / sizeof(stored)) __builtin_prefetch(first + i);
    }
}

static void currents(const Layer *l, const Block *b, int64_t t, real *restrict c) {
    const int n = b->n;
    const real gain = l->gain, *restrict scale = b->scale, *restrict shift = b->shift;
    const stored *restrict x = at(l, l->x, l->still ? 0 : t, b);
    if (l->join == ON_CURRENT) {
        const stored *restrict identity = at(l, l->identity, t, b);
        EACH c[i] = (FMA(load(x[i]), scale[i], shift[i]) + load(identity[i])) * gain;
    } else {
        EACH c[i] = FMA(load(x[i]), scale[i], shift[i]) * gain;
    }
}

static void charge(const Layer *l, const Block *b, int64_t t) {
    const int n = b->n;
    const real rate = l->rate, threshold = l->threshold, *restrict before = b->h + t * b->width;
    real *restrict h = b->h + (t + 1) * b->width;
    currents(l, b, t, h);
#define CHARGE(charged) EACH { real v = before[i] >= threshold ? 0 : before[i], c = h[i]; h[i] = charged; } break
    switch (l->charge) {
        case ADD: CHARGE(v + c);
        case DIVIDE: CHARGE(v + (c - v) / rate);
        default: CHARGE(v + (c - v) * rate);
    }
}

static void fire(const Layer *l, const Block *b, int64_t t, stored *restrict o, stored *restrict s) {
    const int n = b->n;
    const real threshold = l->threshold, *restrict h = b->h + (t + 1) * b->width;
    const stored fired = store(1), silent = store(0);
    if (l->join == ON_SPIKES) {
        const stored *restrict identity = at(l, l->identity, t, b);
        const real none = l->none, some = l->none + l->by_s, by_o = l->by_o, by_both = l->by_o + l->by_both;
        EACH {
            int fires = h[i] >= threshold;
            o[i] = store(FMA(load(identity[i]), fires ? by_both : by_o, fires ? some : none));
            s[i] = fires ? fired : silent;
        }
    } else {
        EACH o[i] = h[i] >= threshold ? fired : silent;
    }
}

/* g = dL/dc_t. The first three are constants. */
static inline __attribute__((always_inline)) void step_back(
    const int charge, const int join, const int surrogate, const Layer *l, const Block *b, int64_t t,
    const stored *restrict grad_o, const stored *restrict grad_s, stored *restrict grad_identity) {
    const int n = b->n;
    const real rate = l->rate, threshold = l->threshold, gain = l->gain, alpha = l->alpha;
    const real by_s = l->by_s, by_both = l->by_both, silent = l->by_o, fired = l->by_o + l->by_both;
    const stored *restrict identity = join == ON_SPIKES ? at(l, l->identity, t, b) : NULL;
    const real *restrict h = b->h + (t + 1) * b->width, *restrict before = b->h + t * b->width, *restrict c = b->c;
    real *restrict g = b->g, *restrict grad_v = b->grad_v, *restrict grad_q = b->grad_q;
    EACH {
        int fires = h[i] >= threshold;
        real grad = load(grad_o[i]);
        if (join == ON_SPIKES) {
            grad_identity[i] = store(grad * (fires ? fired : silent));
            grad = FMA(grad, FMA(load(identity[i]), by_both, by_s), load(grad_s[i]));
        }
        real grad_h = FMA(grad, slope(surrogate, alpha, h[i] - threshold), fires ? 0 : grad_v[i]);
        if (charge == LEARNED) grad_q[i] = FMA(grad_h, c[i] - (before[i] >= threshold ? 0 : before[i]), grad_q[i]);
        real part = charge == ADD ? grad_h : charge == DIVIDE ? grad_h / rate : grad_h * rate;
        grad_v[i] = charge == ADD ? grad_h : grad_h - part;
        g[i] = part * gain;
    }
}

#define BY_CHARGE(...) switch (l->charge) { \
    case ADD: step_back(ADD, __VA_ARGS__); break; \
    case MULTIPLY: step_back(MULTIPLY, __VA_ARGS__); break; \
    case DIVIDE: step_back(DIVIDE, __VA_ARGS__); break; \
    default: step_back(LEARNED, __VA_ARGS__); \
}

static void through(const Layer *l, const Block *b, int64_t t, const stored *grad_o, const stored *grad_s, stored *grad_identity) {
    if (l->charge == LEARNED) currents(l, b, t, b->c);
    if (l->join == ON_SPIKES && l->surrogate == ATAN) BY_CHARGE(ON_SPIKES, ATAN, l, b, t, grad_o, grad_s, grad_identity)
    else if (l->join == ON_SPIKES) BY_CHARGE(ON_SPIKES, SIGMOID, l, b, t, grad_o, grad_s, grad_identity)
    else if (l->surrogate == ATAN) BY_CHARGE(NO_JOIN, ATAN, l, b, t, grad_o, grad_s, grad_identity)
    else BY_CHARGE(NO_JOIN, SIGMOID, l, b, t, grad_o, grad_s, grad_identity)
}

/* Whether an element's channel is its index modulo the channels. */
static int channels_last(const Layer *l) { return l->inner == 1 || l->channels == 1; }

/* The elements from `start` up to the end of their channel, at most n, and that channel. */
static int run(const Layer *l, int64_t start, int n, int64_t *channel) {
    int64_t row = start / l->inner, left = (row + 1) * l->inner - start;
    *channel = row % l->channels;
    return left < n ? left : n;
}

static void spread(const Layer *l, const real *values, real without, int64_t start, int n, real *out) {
    int64_t channel;
    for (int i = 0, length; i < n; i += length) {
        length = run(l, start + i, n - i, &channel);
        real value = values ? values[channel] : without;
        for (int j = 0; j < length; j++) out[i + j] = value;
    }
}

static void spread_all(const Layer *l, const Block *b, int64_t start, int n) {
    spread(l, l->scale, 1, start, n, b->vectors[0]);
    spread(l, l->shift, 0, start, n, b->vectors[1]);
    spread(l, l->mean, 0, start, n, b->vectors[2]);
}

static Block prepare(const Layer *l) {
    Block b = {0};
    int64_t width = 4096 / l->steps / 16 * 16;
    b.width = width < 64 ? 64 : width > 512 ? 512 : width;
    int64_t all = (l->channels + b.width + 15) / 16 * 16, size = (l->steps + 7) * b.width + 5 * all;
    b.h = aligned_alloc(64, size * sizeof(real));
    memset(b.h, 0, size * sizeof(real));
    real *room = b.h + (l->steps + 1) * b.width, **parts[] = {&b.c, &b.g, &b.zero, &b.total, &b.grad_v, &b.grad_q};
    for (int i = 0; i < 6; i++, room += b.width) *parts[i] = room;
    for (int i = 0; i < 5; i++, room += all) b.vectors[i] = room;
    if (channels_last(l)) spread_all(l, &b, 0, l->channels + b.width);
    return b;
}

static void move(const Layer *l, Block *b, int64_t index) {
    const int64_t step = l->outer * l->channels * l->inner, left = step - index * b->width;
    b->start = index * b->width;
    b->n = left < b->width ? left : b->width;
    if (!channels_last(l)) spread_all(l, b, b->start, b->n);
    const int64_t offset = channels_last(l) ? b->start % l->channels : 0;
    b->scale = b->vectors[0] + offset, b->shift = b->vectors[1] + offset, b->mean = b->vectors[2] + offset;
    b->sum_c = b->vectors[3] + offset, b->sum_cx = b->vectors[4] + offset;
}

/* This thread's blocks. */
static void share(const Layer *l, const Block *b, int64_t *from, int64_t *to) {
    const int64_t blocks = (l->outer * l->channels * l->inner + b->width - 1) / b->width, threads = omp_get_num_threads();
    *from = blocks * omp_get_thread_num() / threads, *to = blocks * (omp_get_thread_num() + 1) / threads;
}

static void add_up(const Block *b, const stored *restrict x, const real *restrict g) {
    const int n = b->n;
    const real *restrict mean = b->mean;
    real *restrict sum_c = b->sum_c, *restrict sum_cx = b->sum_cx;
    EACH {
        sum_c[i] += g[i];
        sum_cx[i] = FMA(g[i], load(x[i]) - mean[i], sum_cx[i]);
    }
}

/* Sums by element to sums by channel. */
static void gather(const Layer *l, const Block *b, int64_t start, int n, double *sums) {
    for (int which = 0; which < 2; which++, sums += l->channels) {
        real *values = b->vectors[3 + which];
        int64_t channel;
        for (int i = 0, length; i < n; i += length) {
            length = run(l, start + i, n - i, &channel);
            double sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int j = 0; j < length; j++) sum += values[i + j];
            sums[channel] += sum;
        }
        memset(values, 0, n * sizeof(real));
    }
}

static void gather_now_and_then(const Layer *l, const Block *b, int64_t done, int last, double *sums) {
    if (!channels_last(l)) gather(l, b, b->start, b->n, sums);
    else if (last || done % 128 == 127) gather(l, b, 0, l->channels + b->width, sums); /* a sum of floats stays short */
}

void forward(const Layer *l, stored *o, stored *s) {
    const stored *const maps[] = {l->x, l->identity, o, s};
#pragma omp parallel num_threads(l->threads)
    {
        Block b = prepare(l);
        int64_t from, to;
        share(l, &b, &from, &to);
        for (int64_t index = from; index < to; index++) {
            move(l, &b, index);
            for (int64_t t = 0; t < l->steps; t++) {
                prefetch(l, &b, t + 1, 4, maps);
                charge(l, &b, t);
                fire(l, &b, t, at(l, o, t, &b), s ? at(l, s, t, &b) : NULL);
            }
        }
        free(b.h);
    }
}

/* grad_c is like x. sums [threads, 2 channels + 1], zeros: of dL/dc, of dL/dc (x - mean), and dL/dq. */
void backward(const Layer *l, const stored *grad_o, const stored *grad_s, stored *grad_c, stored *grad_identity,
              double *all_sums) {
    const stored *const up[] = {l->x, l->join == ON_CURRENT ? l->identity : NULL};
    const stored *const down[] = {l->x, l->identity, grad_o, grad_s, l->still ? NULL : grad_c, grad_identity};
#pragma omp parallel num_threads(l->threads)
    {
        double *sums = all_sums + omp_get_thread_num() * (2 * l->channels + 1);
        Block b = prepare(l);
        int64_t from, to;
        share(l, &b, &from, &to);
        for (int64_t index = from; index < to; index++) {
            move(l, &b, index);
            const int n = b.n;
            for (int64_t t = 0; t < l->steps; t++) {
                if (t + 1 < l->steps) prefetch(l, &b, t + 1, 2, up);
                else prefetch(l, &b, t, 6, down);
                charge(l, &b, t);
            }
            memset(b.total, 0, 3 * b.width * sizeof(real)); /* and grad_v and grad_q */
            for (int64_t t = l->steps - 1; t >= 0; t--) {
                if (t) prefetch(l, &b, t - 1, 6, down);
                else prefetch(l, &b, l->steps, 2, up);
                through(l, &b, t, at(l, grad_o, t, &b), grad_s ? at(l, grad_s, t, &b) : (const stored *)b.zero,
                        grad_identity ? at(l, grad_identity, t, &b) : NULL);
                if (l->still) EACH b.total[i] += b.g[i];
                if (l->still && t) continue;
                const real *restrict g = l->still ? b.total : b.g;
                stored *restrict out = at(l, grad_c, t, &b);
                EACH out[i] = store(g[i]);
                if (l->mean) add_up(&b, at(l, l->x, t, &b), g);
            }
            for (int i = 0; i < n && l->charge == LEARNED; i++) sums[2 * l->channels] += b.grad_q[i];
            if (l->mean) gather_now_and_then(l, &b, index - from, index + 1 == to, sums);
        }
        free(b.h);
    }
}

/* g <- scale g + shift x + mean, over a single step. */
void apply(const Layer *l, stored *all) {
#pragma omp parallel num_threads(l->threads)
    {
        Block b = prepare(l);
        int64_t from, to;
        share(l, &b, &from, &to);
        for (int64_t index = from; index < to; index++) {
            move(l, &b, index);
            const int n = b.n;
            const stored *restrict x = at(l, l->x, 0, &b);
            stored *restrict g = at(l, all, 0, &b);
            EACH g[i] = store(FMA(b.scale[i], load(g[i]), FMA(b.shift[i], load(x[i]), b.mean[i])));
        }
        free(b.h);
    }
}

/* sums [threads, 2 channels + 1], zeros: of x - mean and of its square, over a single step. */
void statistics(const Layer *l, double *all_sums) {
#pragma omp parallel num_threads(l->threads)
    {
        double *sums = all_sums + omp_get_thread_num() * (2 * l->channels + 1);
        Block b = prepare(l);
        int64_t from, to;
        share(l, &b, &from, &to);
        for (int64_t index = from; index < to; index++) {
            move(l, &b, index);
            const int n = b.n;
            const stored *restrict x = at(l, l->x, 0, &b);
            EACH b.g[i] = load(x[i]) - b.mean[i];
            add_up(&b, x, b.g);
            gather_now_and_then(l, &b, index - from, index + 1 == to, sums);
        }
        free(b.h);
    }
}
