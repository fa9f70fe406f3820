/* A flatbuffer's tables, read in place. A field that the file leaves out has its default, 0. */
#ifndef READER_H
#define READER_H
#include <stddef.h>
#include <stdint.h>

typedef const uint8_t *At; /* where a table, vector or struct starts; NULL: absent */
static uint64_t bits(At p, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; i++) value |= (uint64_t)p[i] << (8 * i);
  return value;
}
static int64_t integer(At p, int bytes) { /* signed */
  uint64_t value = bits(p, bytes), sign = (uint64_t)1 << (8 * bytes - 1);
  return (int64_t)((value ^ sign) - sign);
}
static At field(At table, int id) {
  At vtable = table - (int32_t)integer(table, 4);
  unsigned offset = 4 + 2 * id < (int)bits(vtable, 2) ? (unsigned)bits(vtable + 4 + 2 * id, 2) : 0;
  return offset ? table + offset : NULL;
}
/* A field that the file leaves out has its default, 0. */
static int64_t scalar(At table, int id, int bytes) { At p = field(table, id); return p ? integer(p, bytes) : 0; }
static int byte_of(At table, int id) { At p = field(table, id); return p ? *p : 0; }
static At child(At table, int id) { At p = field(table, id); return p ? p + bits(p, 4) : NULL; }
static int length(At vector) { return vector ? (int)bits(vector, 4) : 0; }
static At item(At vector, int i, int bytes) { return vector + 4 + (size_t)i * bytes; }
static At entry(At vector, int i) { At p = item(vector, i, 4); return p + bits(p, 4); } /* of a vector of tables */
static int int_at(At vector, int i) { return (int)integer(item(vector, i, 4), 4); }

#endif
