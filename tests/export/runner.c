/* Replays a fixed-point program (schemas/nna_program.fbs), written from the schema alone: C99, no dependencies.
 *
 *   runner PROGRAM INPUTS OUTPUTS
 *
 * INPUTS: the elements of every program input, one after the other. OUTPUTS: for each tensor fed or computed, int32 index,
 * int32 bytes, elements. Ops of kind Host, and what reads their outputs, are left out. Files are little-endian, whatever
 * the machine. Exit code: 0 done, 1 the files cannot be used, 3 a sum left a register that refuses it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixed_point.h"

/* ---- the program ---- */
enum { UINT8 = 1, INT8, INT16, INT32, INT64, FLOAT32 };
enum { WRAP, SATURATE, REFUSE };
enum { CONVOLUTION = 1, DEPTHWISE, FULLY_CONNECTED, ADDITION, MULTIPLICATION, AVERAGE_POOL, MEAN, MAX_POOL, CONCATENATION,
       PAD, MOVE, RESCALING, LOOKUP, TRANSPOSED, COMPARISON, PRELU, INTERPOLATION, HOST };
#define MAX_RANK 8
typedef struct { int type, rank, shape[MAX_RANK], known, constant; size_t size; At zero_point; int64_t *codes; } Tensor;
static Tensor *tensors;
static int element_bytes(int type) { return (const int[]){0, 1, 1, 2, 4, 8, 4}[type]; }
static int holds_codes(int type) { return type != 0 && type != FLOAT32; }
static int64_t lowest(int type) { return type == INT8 ? -128 : type == INT16 ? -32768 : 0; }
static int64_t zero_point(const Tensor *t, int channel) {
  return t->zero_point ? int_at(t->zero_point, length(t->zero_point) == 1 ? 0 : channel) : 0;
}
static void fail(int code, const char *why) { fprintf(stderr, "runner: %s\n", why); exit(code); }
static void *allocate(size_t count, size_t bytes) {
  void *p = calloc(count + 1, bytes);
  return p ? p : (fail(1, "out of memory"), p);
}
static void load(Tensor *t, At raw) {
  int bytes = element_bytes(t->type);
  for (size_t i = 0; i < t->size; i++, raw += bytes) t->codes[i] = t->type == UINT8 ? *raw : integer(raw, bytes);
}

/* ---- windows ---- */
enum { ROWS, COLUMNS, STEP_Y, STEP_X, DILATE_Y, DILATE_X, TOP, LEFT, WINDOW };
typedef struct { int at[WINDOW], taps; } Window;
static Window window(At table) {
  Window w;
  for (int i = 0; i < WINDOW; i++) w.at[i] = (int)scalar(table, i, 4);
  w.taps = w.at[ROWS] * w.at[COLUMNS];
  return w;
}
/* Where a tap of an output falls in the image of one sample, as an index of [H, W]; -1: outside. */
static int tap(const Window *w, const Tensor *x, int oy, int ox, int t) {
  int y = oy * w->at[STEP_Y] - w->at[TOP] + t / w->at[COLUMNS] * w->at[DILATE_Y];
  int c = ox * w->at[STEP_X] - w->at[LEFT] + t % w->at[COLUMNS] * w->at[DILATE_X];
  return y < 0 || y >= x->shape[1] || c < 0 || c >= x->shape[2] ? -1 : y * x->shape[2] + c;
}

/* The same for a transposed convolution, whose taps lie on the output. */
static int back_tap(const Window *w, const Tensor *x, int oy, int ox, int t) {
  int y = oy + w->at[TOP] - t / w->at[COLUMNS], c = ox + w->at[LEFT] - t % w->at[COLUMNS];
  if (y < 0 || c < 0 || y % w->at[STEP_Y] || c % w->at[STEP_X]) return -1;
  y /= w->at[STEP_Y], c /= w->at[STEP_X];
  return y >= x->shape[1] || c >= x->shape[2] ? -1 : y * x->shape[2] + c;
}

/* ---- layers ---- */
static int64_t held(At accumulator, int64_t sum) {
  int width = byte_of(accumulator, 0);
  int64_t limited = byte_of(accumulator, 1) == WRAP ? wrapped(sum, width) : saturated(sum, width);
  if (byte_of(accumulator, 1) == REFUSE && limited != sum) fail(3, "a sum left its register");
  return limited;
}
typedef struct { At table, accumulator; int each_step; const Tensor *filter, *bias; } Layer;
static Layer layer(At table) {
  At sums = child(table, 5);
  int64_t bias = scalar(table, 1, 4);
  return (Layer){table, sums, byte_of(sums, 2), &tensors[scalar(table, 0, 4)], bias < 0 ? NULL : &tensors[bias]};
}
static int64_t add_product(const Layer *l, int64_t sum, int64_t code, size_t weight, int64_t x0, int64_t w0) {
  sum += (code - x0) * (l->filter->codes[weight] - w0);
  return l->each_step ? held(l->accumulator, sum) : sum;
}
static int64_t layer_code(const Layer *l, int64_t sum, int channel) {
  if (l->bias) sum += l->bias->codes[channel];
  sum = saturated(held(l->accumulator, sum), byte_of(l->accumulator, 3));
  return output(child(l->table, 6), sum, channel);
}
static void convolve(At kind, const Tensor *x, Tensor *y, int type) {
  Window w = window(child(kind, 0));
  int depthwise = type == DEPTHWISE, back = type == TRANSPOSED;
  Layer l = layer(child(kind, back ? 1 : 2));
  int inputs = x->shape[3], outputs = y->shape[3], factor = back ? 1 : (int)scalar(kind, 1, 4);
  int each = depthwise ? 1 : inputs / factor, pad = (int)scalar(l.table, 4, 4);
  for (size_t k = 0; k < y->size; k++) {
    int o = (int)(k % outputs), ox = (int)(k / outputs % y->shape[2]), oy = (int)(k / outputs / y->shape[2] % y->shape[1]);
    size_t image = k / outputs / y->shape[2] / y->shape[1] * x->shape[1] * x->shape[2];
    int first = depthwise ? o / factor : o / (outputs / factor) * each;
    int64_t sum = 0, x0 = zero_point(x, 0), w0 = zero_point(l.filter, o);
    for (int t = 0; t < w.taps; t++) {
      int place = back ? back_tap(&w, x, oy, ox, t) : tap(&w, x, oy, ox, t);
      if (back && place < 0) continue;
      const int64_t *codes = x->codes + (image + (place < 0 ? 0 : place)) * inputs + first;
      for (int c = 0; c < each; c++) {
        size_t weight = depthwise ? (size_t)t * outputs + o : ((size_t)o * w.taps + t) * each + c;
        sum = add_product(&l, sum, place < 0 ? pad : codes[c], weight, x0, w0);
      }
    }
    y->codes[k] = layer_code(&l, sum, o);
  }
}
static void connect(At kind, const Tensor *x, Tensor *y) {
  Layer l = layer(child(kind, 0));
  int outputs = l.filter->shape[0], inputs = l.filter->shape[1];
  for (size_t i = 0; i < y->size; i++) {
    int o = (int)(i % outputs);
    const int64_t *codes = x->codes + i / outputs * inputs;
    int64_t sum = 0, x0 = zero_point(x, 0), w0 = zero_point(l.filter, o);
    for (int c = 0; c < inputs; c++)
      sum = add_product(&l, sum, codes[c], (size_t)o * inputs + c, x0, w0);
    y->codes[i] = layer_code(&l, sum, o);
  }
}
/* ---- pairs ---- */
static size_t broadcast(const Tensor *x, const Tensor *y, size_t i) { /* the element of x that meets element i of y */
  size_t at = 0, step = 1;
  for (int d = y->rank - 1, e = x->rank - 1; e >= 0; d--, e--) {
    if (x->shape[e] > 1) at += i % y->shape[d] * step;
    step *= x->shape[e], i /= y->shape[d];
  }
  return at;
}
static int64_t operand(At side, int64_t code) {
  int64_t value = (code - scalar(side, 0, 4)) * ((int64_t)1 << byte_of(side, 1));
  return saturated(rescale(child(side, 2), value, 0), byte_of(side, 3));
}
static void combine(At kind, int product, const Tensor *a, const Tensor *b, Tensor *y) {
  At stage = child(kind, product ? 0 : 4);
  for (size_t i = 0; i < y->size; i++) {
    int64_t p = a->codes[broadcast(a, y, i)], q = b->codes[broadcast(b, y, i)];
    int64_t value = (p - zero_point(a, 0)) * (q - zero_point(b, 0));
    if (!product)
      value = saturated(operand(child(kind, 1), p) + scalar(kind, 0, 1) * operand(child(kind, 2), q), byte_of(kind, 3));
    y->codes[i] = output(stage, value, 0);
  }
}
static void compare(int larger, const Tensor *a, const Tensor *b, Tensor *y) {
  for (size_t i = 0; i < y->size; i++) {
    int64_t p = a->codes[broadcast(a, y, i)], q = b->codes[broadcast(b, y, i)];
    y->codes[i] = larger == (p > q) ? p : q;
  }
}
static void slope(At kind, const Tensor *x, const Tensor *alpha, Tensor *y) {
  for (size_t i = 0; i < y->size; i++) {
    int64_t v = x->codes[broadcast(x, y, i)] - zero_point(x, 0);
    int64_t by = alpha ? alpha->codes[broadcast(alpha, y, i)] - zero_point(alpha, 0) : 1;
    y->codes[i] = v >= 0 ? output(child(kind, 0), v, 0) : output(child(kind, 1), v * by, 0);
  }
}
/* ---- pools ---- */
static int64_t average(At a, int64_t sum, int64_t n) {
  int64_t zero = scalar(a, 0, 4);
  At table = child(a, 2);
  if (!table) return divided(sum, (uint64_t)n, byte_of(a, 1)) - zero;
  for (int i = 0; i < length(table); i++) {
    At r = item(table, i, 24);
    if (integer(r, 8) == n) return scaled(sum - n * zero, integer(r + 8, 8), (int)integer(r + 16, 4), byte_of(a, 1));
  }
  fail(1, "no reciprocal for a window");
  return 0;
}
static void pool(At kind, int maximum, const Tensor *x, Tensor *y) {
  Window w = window(child(kind, 0));
  At stage = child(kind, maximum ? 1 : 2);
  int depth = y->shape[3];
  for (size_t i = 0; i < y->size; i++) {
    int c = (int)(i % depth), ox = (int)(i / depth % y->shape[2]), oy = (int)(i / depth / y->shape[2] % y->shape[1]);
    size_t image = i / depth / y->shape[2] / y->shape[1] * x->shape[1] * x->shape[2];
    int64_t sum = 0, most = INT64_MIN, n = 0;
    for (int t = 0; t < w.taps; t++) {
      int place = tap(&w, x, oy, ox, t);
      if (place < 0) continue;
      int64_t code = x->codes[(image + place) * depth + c];
      sum += code, n++, most = code > most ? code : most;
    }
    y->codes[i] = output(stage, maximum ? most - scalar(stage, 1, 4) : average(child(kind, 1), sum, n), 0);
  }
}
static void mean(At kind, const Tensor *x, Tensor *y) {
  At axes = child(kind, 0), by = child(kind, 2);
  int64_t n = scalar(kind, 1, 8);
  memset(y->codes, 0, y->size * sizeof *y->codes);
  for (size_t i = 0; i < x->size; i++) {
    size_t rest = i, at = 0, step = 1;
    for (int d = x->rank - 1; d >= 0; rest /= x->shape[d], d--) {
      int gone = 0;
      for (int a = 0; a < length(axes); a++) gone |= int_at(axes, a) == d;
      if (!gone) at += rest % x->shape[d] * step, step *= x->shape[d];
    }
    y->codes[at] += x->codes[i];
  }
  for (size_t i = 0; i < y->size; i++)
    y->codes[i] = output(child(kind, 3), by ? average(by, y->codes[i], n) : y->codes[i] - n * zero_point(x, 0), 0);
}
/* ---- moves ---- */
static int64_t look_up(At table, int64_t code, int from, int to) {
  At p = table + 4 + code - lowest(from);
  return to == INT8 ? integer(p, 1) : *p;
}
static void map(At by, int table, const Tensor *x, Tensor *y) {
  for (size_t i = 0; i < y->size; i++)
    y->codes[i] = table ? look_up(by, x->codes[i], x->type, y->type) : output(by, x->codes[i] - zero_point(x, 0), 0);
}
static void join(At kind, At inputs, Tensor *y) {
  int outer = (int)scalar(kind, 0, 4);
  size_t at = 0;
  for (int o = 0; o < outer; o++)
    for (int p = 0; p < length(inputs); p++) {
      const Tensor *x = &tensors[int_at(inputs, p)];
      At table = child(entry(child(kind, 1), p), 0);
      for (size_t i = 0, run = x->size / outer; i < run; i++) {
        int64_t code = x->codes[o * run + i];
        y->codes[at++] = table ? look_up(table, code, x->type, y->type) : code;
      }
    }
}
static void border(At kind, const Tensor *x, Tensor *y) {
  for (size_t i = 0; i < y->size; i++) {
    size_t rest = i, at = 0, step = 1;
    int inside = 1;
    for (int d = y->rank - 1; d >= 0; step *= x->shape[d], rest /= y->shape[d], d--) {
      int place = (int)(rest % y->shape[d]) - int_at(child(kind, 0), d);
      inside &= place >= 0 && place < x->shape[d], at += place * step;
    }
    y->codes[i] = inside ? x->codes[at] : scalar(kind, 2, 4);
  }
}
static void move(At copy, const Tensor *x, Tensor *y) {
  At sizes = child(copy, 1), strides = child(copy, 2), elements = child(copy, 3);
  for (size_t i = 0; i < y->size; i++) {
    int64_t at = elements ? int_at(elements, (int)i) : scalar(copy, 0, 4);
    size_t rest = i;
    for (int d = length(sizes) - 1; d >= 0; rest /= int_at(sizes, d), d--)
      at += (int64_t)(rest % int_at(sizes, d)) * int_at(strides, d);
    y->codes[i] = at < 0 ? scalar(copy, 4, 4) : x->codes[at];
  }
}
static void interpolate(At kind, const Tensor *x, Tensor *y) {
  int depth = y->shape[3], width = x->shape[2], fraction = byte_of(kind, 0);
  for (size_t i = 0; i < y->size; i++) {
    At row = item(child(kind, 1), (int)(i / depth / y->shape[2] % y->shape[1]), 12);
    At column = item(child(kind, 2), (int)(i / depth % y->shape[2]), 12);
    size_t image = i / depth / y->shape[2] / y->shape[1] * x->shape[1];
    int64_t sum = 0, one = (int64_t)1 << fraction, q = integer(row + 8, 4), r = integer(column + 8, 4);
    for (int k = 0; k < 4; k++) {
      size_t at = (image + bits(row + k / 2 * 4, 4)) * width + bits(column + k % 2 * 4, 4);
      sum += x->codes[at * depth + i % depth] * (k / 2 ? q : one - q) * (k % 2 ? r : one - r);
    }
    y->codes[i] = scaled(sum, 1, 2 * fraction, HALF_AWAY);
  }
}

/* ---- running ---- */
static void run(At op) {
  At inputs = child(op, 1), outputs = child(op, 2), kind = child(op, 4);
  int type = byte_of(op, 3);
  if (type == HOST) return;
  for (int i = 0; i < length(inputs); i++)
    if (int_at(inputs, i) >= 0 && !tensors[int_at(inputs, i)].known) return;
  const Tensor *x = &tensors[int_at(inputs, type == MOVE ? (int)scalar(kind, 0, 4) : type == TRANSPOSED ? 2 : 0)];
  const Tensor *b = length(inputs) > 1 && int_at(inputs, 1) >= 0 ? &tensors[int_at(inputs, 1)] : NULL;
  Tensor *y = &tensors[int_at(outputs, 0)];
  for (int i = 0; i < length(outputs); i++) tensors[int_at(outputs, i)].known = 1;
  if (type == CONVOLUTION || type == DEPTHWISE || type == TRANSPOSED) convolve(kind, x, y, type);
  else if (type == FULLY_CONNECTED) connect(kind, x, y);
  else if (type == ADDITION || type == MULTIPLICATION) combine(kind, type == MULTIPLICATION, x, b, y);
  else if (type == AVERAGE_POOL || type == MAX_POOL) pool(kind, type == MAX_POOL, x, y);
  else if (type == MEAN) mean(kind, x, y);
  else if (type == COMPARISON) compare(byte_of(kind, 0), x, b, y);
  else if (type == PRELU) slope(kind, x, b, y);
  else if (type == INTERPOLATION) interpolate(kind, x, y);
  else if (type == CONCATENATION) join(kind, inputs, y);
  else if (type == PAD) border(kind, x, y);
  else if (type == MOVE)
    for (int i = 0; i < length(outputs); i++) move(entry(child(kind, 1), i), x, &tensors[int_at(outputs, i)]);
  else if (type == RESCALING || type == LOOKUP) map(child(kind, 0), type == LOOKUP, x, y);
  else fail(1, "unknown kind of op");
}
static uint8_t *contents(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) fail(1, path);
  size_t size = (size_t)ftell(file);
  uint8_t *data = allocate(size, 1);
  rewind(file);
  if (fread(data, 1, size, file) != size || fclose(file)) fail(1, path);
  return data;
}
static void write_integer(uint64_t value, int bytes, FILE *file) {
  for (; bytes-- > 0; value >>= 8) fputc((int)(value & 255), file);
}
int main(int argc, char **argv) {
  if (argc != 4) fail(1, "expected PROGRAM INPUTS OUTPUTS");
  At file = contents(argv[1]), data = contents(argv[2]), program = file + bits(file, 4);
  if (memcmp(file + 4, "TFRN", 4) || bits(field(program, 0), 2) != 1) fail(1, "not a program of version 1");
  At list = child(program, 3), ops = child(program, 4), inputs = child(program, 5), buffers = child(program, 7);
  tensors = allocate((size_t)length(list), sizeof *tensors);
  for (int i = 0; i < length(list); i++) {
    At table = entry(list, i), shape = child(table, 1), elements = child(entry(buffers, (int)scalar(table, 9, 4)), 0);
    Tensor *t = &tensors[i];
    t->type = byte_of(table, 2), t->rank = length(shape), t->zero_point = child(table, 7), t->size = 1;
    if (t->rank > MAX_RANK) fail(1, "a tensor of more than 8 dimensions");
    for (int d = 0; d < t->rank; d++) t->size *= (size_t)(t->shape[d] = int_at(shape, d));
    t->codes = allocate(t->size, sizeof *t->codes);
    t->constant = field(table, 9) != NULL, t->known = t->constant && holds_codes(t->type);
    if (t->known && elements && (size_t)length(elements) == t->size * element_bytes(t->type)) load(t, elements + 4);
  }
  for (int i = 0; i < length(inputs); i++) {
    Tensor *t = &tensors[int_at(inputs, i)];
    t->known = holds_codes(t->type);
    if (t->known) load(t, data);
    data += t->size * element_bytes(t->type);
  }
  for (int i = 0; i < length(ops); i++) run(entry(ops, i));
  FILE *results = fopen(argv[3], "wb");
  if (!results) fail(1, argv[3]);
  for (int i = 0; i < length(list); i++) {
    const Tensor *t = &tensors[i];
    int bytes = element_bytes(t->type);
    if (t->constant || !t->known) continue;
    write_integer((uint64_t)i, 4, results), write_integer(t->size * bytes, 4, results);
    for (size_t k = 0; k < t->size; k++) write_integer((uint64_t)t->codes[k], bytes, results);
  }
  return fclose(results) != 0;
}
