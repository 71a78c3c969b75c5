/* Spikes lie in memory as bits, [steps][height][width][channels], eight channels in a byte, the last byte of a position
 * filled up with zeros. A layer runs all time steps of a row before the next row, so that one row of membranes serves
 * all layers. Compiled with CLASSIFY_STREAM, a call is one time step, and all membranes are kept for the next. */
#ifdef CLASSIFY_STREAM
#define AT_ONCE 1
static int32_t membranes[NEURONS];
#else
#define AT_ONCE CLASSIFY_STEPS
static int32_t membranes[LARGEST_ROW];
#endif
static int32_t sums[LARGEST_ROW], scores[CLASSIFY_CLASSES];

#if CLASSIFY_BITS == 4 /* two in a byte, the first in its lower half */
typedef uint8_t weight;
#define WEIGHT(w, k) ((((w)[(k) >> 1] >> (((k) & 1) << 2) & 15) ^ 8) - 8)
#else
typedef int8_t weight;
#define WEIGHT(w, k) ((w)[k])
#endif

/* What a row of the output reads: from byte `first` to `end`. Or, backwards, which outputs a column of the input reaches.
 * And the weights of the first of them. No loop counts windows: compilers would multiply to know where it ends. */
struct axis { int32_t first, end, weights; };

struct term { int32_t minus, shift; };

struct layer {
    int32_t number;
    const struct axis *rows, *columns;
    int32_t height, width;           /* rows of the output, columns of the input */
    int32_t inputs, outputs;         /* of a position: bytes that are read (planes of the image), sums that are made */
    int32_t row, step;               /* bytes of the input's row and time step; step is 0 where all steps read the same */
    int32_t out_row, out_step;       /* bytes of the output's */
    const weight *weights;           /* [inputs][kernel height][kernel width][outputs] */
    int32_t of_input, of_row, of_column; /* distances in weights */
    const int32_t *threshold, *bias; /* [outputs] */
    int32_t positions, sums;         /* of the output's row */
    int32_t neurons;                 /* of the layers before */
    int32_t fraction, terms;
    const struct term *term;
};

/* Code of its own that knows no layer's numbers: what multiplies can be told from what does not, and the compiler makes
 * no multiplication of a stride that it knows. */
#if defined(__GNUC__) && !defined(__clang__)
#define APART __attribute__((noinline, noclone, unused))
#elif defined(__clang__)
#define APART __attribute__((noinline, unused))
#else
#define APART
#endif

#ifdef CLASSIFY_COUNT
uint64_t classify_additions[LAYERS];
#define COUNT(layer, n) classify_additions[layer] += (uint64_t)(n)
#else
#define COUNT(layer, n) (void)0
#endif

#ifdef CLASSIFY_WATCH
void (*classify_watch)(int32_t layer, const uint8_t *spikes, int32_t bytes);
static void watch(int32_t layer, const uint8_t *spikes, int32_t bytes)
{
    for (int t = 0; classify_watch && t < AT_ONCE; t++, spikes += bytes)
        classify_watch(layer, spikes, bytes);
}
#else
#define watch(layer, spikes, bytes) (void)0
#endif

/* The sums of a row: every spike adds its weights to those that it reaches. */
static APART void add_spikes(const struct layer *l, const struct axis *row, const uint8_t *spikes)
{
    const weight *of_row = l->weights + row->weights;
    for (int32_t at = row->first; at != row->end; at += l->row, of_row += l->of_row) {
        const uint8_t *here = spikes + at;
        const struct axis *column = l->columns;
        for (int32_t x = l->width; x > 0; x--, column++) {
            const weight *of_byte = of_row + column->weights;
            for (int32_t k = l->inputs; k > 0; k--) {
                const weight *of_input = of_byte;
                of_byte += l->of_input << 3;
                for (unsigned bits = *here++; bits; bits >>= 1, of_input += l->of_input) {
                    if (!(bits & 1))
                        continue;
                    const weight *w = of_input;
                    for (int32_t j = column->first; j != column->end; j -= l->outputs, w += l->of_column) {
                        for (int32_t o = 0; o < l->outputs; o++)
                            sums[j + o] += WEIGHT(w, o);
                        COUNT(l->number, l->outputs);
                    }
                }
            }
        }
    }
}

/* The same of the first layer, which reads bytes [planes][height][width], and is the only one that multiplies. */
static APART void multiply_bytes(const struct layer *l, const struct axis *row, const uint8_t *image, int32_t plane)
{
    const weight *of_input = l->weights + row->weights;
    for (int32_t k = l->inputs; k > 0; k--, image += plane, of_input += l->of_input) {
        const weight *of_row = of_input;
        for (int32_t at = row->first; at != row->end; at += l->row, of_row += l->of_row) {
            for (int32_t x = 0; x < l->width; x++) {
                const int32_t value = (int32_t)image[at + x] - CLASSIFY_ZERO;
                if (!value)
                    continue;
                const struct axis *column = l->columns + x;
                const weight *w = of_row + column->weights;
                for (int32_t j = column->first; j != column->end; j -= l->outputs, w += l->of_column)
                    for (int32_t o = 0; o < l->outputs; o++)
                        sums[j + o] += value * WEIGHT(w, o);
            }
        }
    }
}

/* The membranes of a row take the sums in; those at their threshold fire and start again at 0. */
static APART void fire(const struct layer *l, int32_t *membrane, uint8_t *spikes)
{
    const int32_t *sum = sums;
    for (int32_t i = l->positions; i > 0; i--) {
        unsigned bits = 0, bit = 1;
        for (int32_t c = 0; c < l->outputs; c++) {
            const int32_t current = (int32_t)((uint32_t)*sum++ << l->fraction) + l->bias[c];
            int32_t v = *membrane;
            const int32_t difference = current - v;
            for (int32_t k = 0; k < l->terms; k++) {
                const int32_t part = difference >> l->term[k].shift;
                v = l->term[k].minus ? v - part : v + part;
            }
            if (!l->terms)
                v += current;
            if (v >= l->threshold[c]) {
                v = 0;
                bits |= bit;
            }
            *membrane++ = v;
            bit <<= 1;
            if (bit == 256 || c + 1 == l->outputs) {
                *spikes++ = (uint8_t)bits;
                bits = 0;
                bit = 1;
            }
        }
    }
}

/* A convolution and its neurons; plane is the size of one of the image's planes for the first layer, else 0. */
static APART void spike(const struct layer *l, const uint8_t *input, uint8_t *spikes, int32_t plane)
{
    const struct axis *row = l->rows;
#ifdef CLASSIFY_STREAM
    int32_t *membrane = membranes + l->neurons;
#else
    int32_t *const membrane = membranes;
#endif
    for (int32_t y = l->height; y > 0; y--, row++, spikes += l->out_row) {
        const uint8_t *in = input;
        uint8_t *out = spikes;
#ifndef CLASSIFY_STREAM
        memset(membrane, 0, (size_t)l->sums * sizeof *membrane);
#endif
        for (int t = 0; t < AT_ONCE; t++, in += l->step, out += l->out_step) {
            if (!t || l->step) {
                memset(sums, 0, (size_t)l->sums * sizeof *sums);
                if (plane)
                    multiply_bytes(l, row, in, plane);
                else
                    add_spikes(l, row, in);
            }
            fire(l, membrane, out);
        }
#ifdef CLASSIFY_STREAM
        membrane += l->sums;
#endif
    }
}

/* A Boolean function of spikes; masks of 0 or 255 say where it is 1: for neither, residual, identity, and both. */
static APART void gate(const uint8_t *identity, const uint8_t *residual, uint8_t *joined, int32_t positions, int32_t bytes,
                       unsigned last, unsigned none, unsigned of_residual, unsigned of_identity, unsigned both)
{
    for (int t = 0; t < AT_ONCE; t++)
        for (int32_t p = positions; p > 0; p--)
            for (int32_t k = bytes; k > 0; k--) {
                const unsigned i = *identity++, r = *residual++, value =
                    (~i & ~r & none) | (~i & r & of_residual) | (i & ~r & of_identity) | (i & r & both);
                *joined++ = (uint8_t)(value & (k > 1 ? 255 : last));
            }
}

/* The maximum of spikes over a window: whether any is 1. */
static APART void pool(const struct layer *l, const uint8_t *spikes, uint8_t *pooled)
{
    for (int t = 0; t < AT_ONCE; t++, spikes += l->step) {
        const struct axis *row = l->rows;
        for (int32_t y = l->height; y > 0; y--, row++, pooled += l->out_row) {
            memset(pooled, 0, (size_t)l->out_row);
            for (int32_t at = row->first; at != row->end; at += l->row) {
                const uint8_t *here = spikes + at;
                const struct axis *column = l->columns;
                for (int32_t x = l->width; x > 0; x--, column++, here += l->inputs)
                    for (int32_t j = column->first; j != column->end; j -= l->inputs)
                        for (int32_t k = 0; k < l->inputs; k++)
                            pooled[j + k] |= here[k];
            }
        }
    }
}

/* Every spike of the last layer adds its weights [inputs][classes] to the logits, every time step the biases. */
static APART void add_to_logits(const int8_t *weights, const int32_t *bias, const uint8_t *spikes, int32_t positions,
                                int32_t inputs)
{
    for (int t = 0; t < AT_ONCE; t++) {
        for (int k = 0; k < CLASSIFY_CLASSES; k++)
            scores[k] += bias[k];
        for (int32_t p = positions; p > 0; p--, spikes += (inputs + 7) >> 3) {
            const int8_t *w = weights;
            for (int32_t c = 0; c < inputs; c++, w += CLASSIFY_CLASSES) {
                if (!(spikes[c >> 3] >> (c & 7) & 1))
                    continue;
                for (int k = 0; k < CLASSIFY_CLASSES; k++)
                    scores[k] += w[k];
                COUNT(LAYERS - 1, CLASSIFY_CLASSES);
            }
        }
    }
}
