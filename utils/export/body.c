/* A position along one axis of what a convolution or a pooling reads. Of the windows that cover it: the first one's
 * output and weights; the next one's output lies before, its weights further on, until the output is `end`. And where
 * the position's own values begin. No loop counts windows: compilers would multiply to know where it ends. */
struct axis { int32_t output, end, weights, input; };

struct sums {
    const int8_t *weights; /* [inputs][kernel height][kernel width][outputs] */
    const struct axis *rows, *columns;
    int32_t height, width, inputs, outputs;
    int32_t input_step, row_step, column_step; /* in weights */
    int32_t output_row, output_column;         /* in outputs */
    int32_t size;                              /* of all outputs */
    int32_t layer;
};

struct term { int32_t minus, shift; };

struct neurons {
    const int32_t *threshold, *bias; /* [channels] */
    int32_t positions, channels, fraction, terms;
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
void (*classify_watch)(int32_t layer, const uint8_t *spikes, int32_t size);
#define WATCH(layer, spikes, size) do { if (classify_watch) classify_watch(layer, spikes, size); } while (0)
#else
#define WATCH(layer, spikes, size) (void)0
#endif

/* Every spike adds its weights to the sums that it reaches. spikes: [height][width][inputs], 0 or 1. */
static APART void add_spikes(const struct sums *l, const uint8_t *spikes, int32_t *sums)
{
    memset(sums, 0, (size_t)l->size * sizeof *sums);
    const struct axis *row = l->rows;
    for (int32_t y = l->height; y > 0; y--, row++) {
        const struct axis *column = l->columns;
        for (int32_t x = l->width; x > 0; x--, column++) {
            const int8_t *weights = l->weights + row->weights + column->weights;
            const uint8_t *here = spikes + row->input + column->input;
            for (int32_t c = 0; c < l->inputs; c++, weights += l->input_step) {
                if (!here[c])
                    continue;
                const int8_t *of_row = weights;
                for (int32_t i = row->output; i != row->end; i -= l->output_row, of_row += l->row_step) {
                    const int8_t *w = of_row;
                    for (int32_t j = column->output; j != column->end; j -= l->output_column, w += l->column_step) {
                        int32_t *sum = sums + i + j;
                        for (int32_t k = 0; k < l->outputs; k++)
                            sum[k] += w[k];
                        COUNT(l->layer, l->outputs);
                    }
                }
            }
        }
    }
}

/* The membranes take the sums in; those at their threshold fire and start again at 0. */
static APART void fire(const struct neurons *l, const int32_t *sums, int32_t *membrane, uint8_t *spikes)
{
    for (int32_t i = l->positions; i > 0; i--) {
        for (int32_t c = 0; c < l->channels; c++) {
            const int32_t current = (int32_t)((uint32_t)*sums++ << l->fraction) + l->bias[c];
            int32_t v = *membrane;
            if (l->terms) {
                const int32_t difference = current - v;
                for (int32_t k = 0; k < l->terms; k++) {
                    const int32_t part = difference >> l->term[k].shift;
                    v = l->term[k].minus ? v - part : v + part;
                }
            } else {
                v += current;
            }
            const uint8_t spike = v >= l->threshold[c];
            *membrane++ = spike ? 0 : v;
            *spikes++ = spike;
        }
    }
}

/* The maximum of spikes over a window: whether any is 1. */
static APART void pool(const struct sums *l, const uint8_t *spikes, uint8_t *pooled)
{
    memset(pooled, 0, (size_t)l->size);
    const struct axis *row = l->rows;
    for (int32_t y = l->height; y > 0; y--, row++) {
        const struct axis *column = l->columns;
        for (int32_t x = l->width; x > 0; x--, column++) {
            const uint8_t *here = spikes + row->input + column->input;
            for (int32_t i = row->output; i != row->end; i -= l->output_row)
                for (int32_t j = column->output; j != column->end; j -= l->output_column)
                    for (int32_t c = 0; c < l->inputs; c++)
                        pooled[i + j + c] |= here[c];
        }
    }
}

/* Every spike of the last layer adds its weights [inputs][outputs] to the logits, every time step the biases. */
static APART void add_to_logits(const struct sums *l, const int32_t *bias, const uint8_t *spikes, int32_t *logits)
{
    for (int32_t k = 0; k < l->outputs; k++)
        logits[k] += bias[k];
    for (int32_t i = l->height; i > 0; i--) {
        const int8_t *w = l->weights;
        for (int32_t c = l->inputs; c > 0; c--, w += l->outputs) {
            if (!*spikes++)
                continue;
            for (int32_t k = 0; k < l->outputs; k++)
                logits[k] += w[k];
            COUNT(l->layer, l->outputs);
        }
    }
}

/* The first layer reads bytes [inputs][height][width], and is the only one that multiplies. */
static APART void multiply_bytes(const struct sums *l, const uint8_t *bytes, int32_t *sums)
{
    memset(sums, 0, (size_t)l->size * sizeof *sums);
    const int8_t *of_input = l->weights;
    for (int32_t c = 0; c < l->inputs; c++, of_input += l->input_step) {
        for (int32_t y = 0; y < l->height; y++) {
            for (int32_t x = 0; x < l->width; x++) {
                const int32_t value = (int32_t)*bytes++ - CLASSIFY_ZERO;
                if (!value)
                    continue;
                const struct axis *row = l->rows + y, *column = l->columns + x;
                const int8_t *of_row = of_input + row->weights + column->weights;
                for (int32_t i = row->output; i != row->end; i -= l->output_row, of_row += l->row_step) {
                    const int8_t *w = of_row;
                    for (int32_t j = column->output; j != column->end; j -= l->output_column, w += l->column_step) {
                        int32_t *sum = sums + i + j;
                        for (int32_t k = 0; k < l->outputs; k++)
                            sum[k] += value * w[k];
                    }
                }
            }
        }
    }
}
