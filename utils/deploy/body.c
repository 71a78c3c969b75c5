/* A position along one axis of what a convolution or a pooling reads: how many windows cover it, and of the first one
 * where its weights and its output begin. The next window's weights lie further on, its output before. */
struct axis { int32_t windows, weights, output; };

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
static void add_spikes(const struct sums *l, const uint8_t *spikes, int32_t *sums)
{
    memset(sums, 0, (size_t)l->size * sizeof *sums);
    const struct axis *row = l->rows;
    for (int32_t y = l->height; y > 0; y--, row++) {
        const struct axis *column = l->columns;
        for (int32_t x = l->width; x > 0; x--, column++) {
            const int8_t *weights = l->weights + row->weights + column->weights;
            for (int32_t c = l->inputs; c > 0; c--, weights += l->input_step) {
                if (!*spikes++)
                    continue;
                const int8_t *of_row = weights;
                int32_t output = row->output + column->output;
                for (int32_t i = row->windows; i > 0; i--, of_row += l->row_step, output -= l->output_row) {
                    const int8_t *w = of_row;
                    int32_t first = output;
                    for (int32_t j = column->windows; j > 0; j--, w += l->column_step, first -= l->output_column) {
                        int32_t *sum = sums + first;
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
static void fire(const struct neurons *l, const int32_t *sums, int32_t *membrane, uint8_t *spikes)
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
static inline void pool(const struct sums *l, const uint8_t *spikes, uint8_t *pooled)
{
    memset(pooled, 0, (size_t)l->size);
    const struct axis *row = l->rows;
    for (int32_t y = l->height; y > 0; y--, row++) {
        const struct axis *column = l->columns;
        for (int32_t x = l->width; x > 0; x--, column++, spikes += l->inputs) {
            int32_t output = row->output + column->output;
            for (int32_t i = row->windows; i > 0; i--, output -= l->output_row) {
                int32_t first = output;
                for (int32_t j = column->windows; j > 0; j--, first -= l->output_column)
                    for (int32_t c = 0; c < l->inputs; c++)
                        pooled[first + c] |= spikes[c];
            }
        }
    }
}

/* Every spike of the last layer adds its weights [inputs][outputs] to the logits, every time step the biases. */
static void add_to_logits(const struct sums *l, const int32_t *bias, const uint8_t *spikes, int32_t *logits)
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
static void multiply_bytes(const struct sums *l, const uint8_t *bytes, int32_t *sums)
{
    memset(sums, 0, (size_t)l->size * sizeof *sums);
    const int8_t *of_input = l->weights;
    for (int32_t c = 0; c < l->inputs; c++, of_input += l->input_step) {
        for (int32_t y = 0; y < l->height; y++) {
            for (int32_t x = 0; x < l->width; x++) {
                const int32_t value = (int32_t)*bytes++ - CLASSIFY_ZERO;
                if (!value)
                    continue;
                for (int32_t i = 0; i < l->rows[y].windows; i++) {
                    for (int32_t j = 0; j < l->columns[x].windows; j++) {
                        const int8_t *w = of_input + l->rows[y].weights + l->columns[x].weights
                            + i * l->row_step + j * l->column_step;
                        int32_t *sum = sums + l->rows[y].output + l->columns[x].output
                            - i * l->output_row - j * l->output_column;
                        for (int32_t k = 0; k < l->outputs; k++)
                            sum[k] += value * w[k];
                    }
                }
            }
        }
    }
}
