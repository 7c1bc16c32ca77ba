// Coroutines for the threads of a block, and the instructions of a warp or a warpgroup; see emulated.h.
#include "emulated.h"

#include <ucontext.h>

#include <cstdio>
#include <deque>
#include <memory>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

unsigned long progress = 0;  // counts what threads did for others
size_t sharedSize = 0;

namespace {

constexpr size_t kStackBytes = 192 * 1024;

struct Copy {
  void* to;
  const void* from;
};
struct Thread {
  ucontext_t context;
  std::vector<uint8_t> stack;
  bool done = false;
  std::deque<std::vector<Copy>> copies{1};  // by group, the oldest first; the last is not closed yet
};
struct Meeting {
  unsigned arrived = 0;
  unsigned long generation = 0;
};
// Data of one warp or warpgroup; two halves, so that a fast thread's next exchange does not overwrite what others still read.
struct Exchange {
  Meeting meeting;
  std::vector<uint8_t> data[2];
};

std::vector<std::unique_ptr<Thread>> threads;
ucontext_t scheduler;
Thread* current = nullptr;

const std::function<void()>* body = nullptr;
std::map<unsigned, Meeting> barriers;
std::map<std::pair<unsigned, unsigned>, Exchange> exchanges;
std::vector<uint8_t> sharedBytes;

void enter() {
  (*body)();
  current->done = true;
  ++progress;
  swapcontext(&current->context, &scheduler);
}

void meet(Meeting& meeting, unsigned size) {
  const unsigned long generation = meeting.generation;
  ++progress;
  if (++meeting.arrived == size) {
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  waitUntil([&] { return meeting.generation != generation; });
}

}  // namespace

void waitUntil(const std::function<bool()>& ready) {
  while (!ready()) swapcontext(&current->context, &scheduler);
}

const void* exchange(const void* mine, size_t bytes, unsigned groupSize) {
  const unsigned thread = threadIdx.x, lane = thread % groupSize;
  Exchange& group = exchanges[{groupSize, thread / groupSize}];
  auto& data = group.data[group.meeting.generation & 1];
  data.resize(std::max(data.size(), size_t{128} * 64));
  std::memcpy(data.data() + lane * bytes, mine, bytes);
  meet(group.meeting, groupSize);
  return data.data();
}

void copyAhead(void* to, const void* from) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16) std::abort();
  current->copies.back().push_back({to, from});
}
void copyGroupEnds() { current->copies.emplace_back(); }
void waitForCopies(unsigned pending) {
  for (; current->copies.size() > pending + 1; current->copies.pop_front()) {
    for (const Copy& copy : current->copies.front()) std::memcpy(copy.to, copy.from, 16);
  }
}

void barrier(unsigned id, unsigned count) { meet(barriers[id], count); }

uint8_t* shared() { return sharedBytes.data() + (1024 - reinterpret_cast<uintptr_t>(sharedBytes.data()) % 1024); }

void runGrid(dim3 grid, dim3 block, size_t dynamicBytes, const std::function<void()>& kernel) {
  body = &kernel;
  sharedSize = dynamicBytes;
  sharedBytes.assign(dynamicBytes + 1024, 0xa5);
  while (threads.size() < block.x) {
    threads.push_back(std::make_unique<Thread>());
    threads.back()->stack.resize(kStackBytes);
  }
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z), blockDim = block, gridDim = grid;
        barriers.clear();
        exchanges.clear();
        for (unsigned i = 0; i < block.x; ++i) {
          Thread& thread = *threads[i];
          thread.done = false;
          thread.copies.assign(1, {});
          getcontext(&thread.context);
          thread.context.uc_stack.ss_sp = thread.stack.data();
          thread.context.uc_stack.ss_size = thread.stack.size();
          thread.context.uc_link = nullptr;
          makecontext(&thread.context, enter, 0);
        }
        unsigned round = 0;
        for (unsigned left = block.x; left > 0; ++round) {
          const unsigned long before = progress;
          left = 0;
          for (unsigned turn = 0; turn < block.x; ++turn) {
            // Forwards and backwards by turns, so that an order of threads that a barrier should make is not there by chance.
            const unsigned i = round % 2 ? block.x - 1 - turn : turn;
            if (threads[i]->done) continue;
            current = threads[i].get();
            threadIdx = dim3(i);
            swapcontext(&scheduler, &current->context);
            left += !threads[i]->done;
          }
          if (left && progress == before) {
            std::printf("deadlock: %u threads of block (%u,%u) wait for nothing that comes\n", left, x, y);
            std::abort();
          }
        }
      }
    }
  }
}

}  // namespace emulated

CUresult emulatedEncode(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data, const cuuint64_t* sizes,
                        const cuuint64_t* pitch, const cuuint32_t* box, const cuuint32_t* stride, CUtensorMapInterleave,
                        CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const bool swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  *map = {static_cast<const uint8_t*>(data), int64_t(sizes[0]), int64_t(sizes[1]), int64_t(pitch[0]), int64_t(type), box[0], box[1], swizzled};
  const bool legal = rank == 2 && reinterpret_cast<uintptr_t>(data) % 16 == 0 && pitch[0] % 16 == 0 && box[0] <= 256 && box[1] <= 256 &&
                     box[0] * uint64_t(type) % 16 == 0 && (!swizzled || box[0] * uint64_t(type) <= 128) && stride[0] == 1 && stride[1] == 1;
  return legal ? CUDA_SUCCESS : 1;
}

namespace dbf::cuda {

void copyAhead(unsigned to, const void* from) { emulated::copyAhead(emulated::shared() + to, from); }
void copyGroupEnds() { emulated::copyGroupEnds(); }
void waitForCopies(unsigned pending) { emulated::waitForCopies(pending); }

namespace {

float number(bool bf16, unsigned bits) {
  return bf16 ? __uint_as_float(bits << 16) : float(emulatedBits<_Float16>(static_cast<unsigned short>(bits)));
}
unsigned halfOf(unsigned pair, int which) { return which ? pair >> 16 : pair & 0xffff; }

// Address of byte `column` of row `row` of a tile of 128-byte rows: bits 4-6 of the address are XORed with bits 7-9.
unsigned swizzle(unsigned address) { return address ^ (address >> 3 & 0x70); }

// An mbarrier as 8 bytes of shared memory cannot hold what we count, so it is kept beside it.
struct Barrier {
  unsigned arrivals, pending;
  int64_t bytes;
  unsigned phase;
};
std::map<unsigned, Barrier> state;
void step(Barrier& barrier) {
  if (barrier.pending == 0 && barrier.bytes == 0) {
    barrier.phase ^= 1;
    barrier.pending = barrier.arrivals;
  }
  ++emulated::progress;
}

}  // namespace

void mmaBytes(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  const unsigned mine[6] = {a0, a1, a2, a3, b0, b1};
  const auto* all = static_cast<const unsigned(*)[6]>(emulated::exchange(mine, sizeof mine, 32));
  const unsigned lane = threadIdx.x & 31;
  for (int i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + (i & 1);
    for (unsigned k = 0; k < 32; ++k) {
      const unsigned a = all[row % 8 * 4 + k % 16 / 4][row / 8 + 2 * (k / 16)] >> (8 * (k % 4)) & 0xff;
      const auto b = static_cast<int8_t>(all[column * 4 + k % 16 / 4][4 + k / 16] >> (8 * (k % 4)) & 0xff);
      c[i] += int(a) * b;
    }
  }
}

void mmaBits(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  const unsigned mine[6] = {a0, a1, a2, a3, b0, b1};
  const auto* all = static_cast<const unsigned(*)[6]>(emulated::exchange(mine, sizeof mine, 32));
  const unsigned lane = threadIdx.x & 31;
  for (int i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + (i & 1);
    for (unsigned word = 0; word < 8; ++word) {
      const unsigned a = all[row % 8 * 4 + word % 4][row / 8 + 2 * (word / 4)], b = all[column * 4 + word % 4][4 + word / 4];
      c[i] += __builtin_popcount(a & b);
    }
  }
}

void mma16(bool bf16, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const auto* all = static_cast<const unsigned(*)[6]>(emulated::exchange(mine, sizeof mine, 32));
  const unsigned lane = threadIdx.x & 31;
  for (int i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + (i & 1);
    float sum = 0;
    for (unsigned k = 0; k < 16; ++k) {
      sum += number(bf16, halfOf(all[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)], k & 1)) *
             number(bf16, halfOf(all[column * 4 + k % 8 / 2][4 + k / 8], k & 1));
    }
    c[i] += sum;
  }
}

void product16(int columns, bool bf16, float* d, const unsigned (&a)[4], uint64_t tile) {
  const auto* all = static_cast<const unsigned(*)[4]>(emulated::exchange(a, sizeof a, 128));
  const unsigned thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  for (int h = 0; h < 2; ++h) {
    float row[16];
    for (unsigned k = 0; k < 16; ++k) row[k] = number(bf16, halfOf(all[warp * 32 + lane / 4 * 4 + k % 8 / 2][h + 2 * (k / 8)], k & 1));
    for (int j = 0; j < columns / 8; ++j) {
      for (int e = 0; e < 2; ++e) {
        const unsigned column = j * 8 + lane % 4 * 2 + e;
        float sum = 0;
        for (unsigned k = 0; k < 16; ++k) {
          const unsigned at = swizzle(unsigned(tile) + column / 8 * 1024 + column % 8 * 128 + k * 2);
          unsigned short bits;
          std::memcpy(&bits, emulated::shared() + at, 2);
          sum += row[k] * number(bf16, bits);
        }
        d[4 * j + 2 * h + e] += sum;
      }
    }
  }
}

void barrierInit(unsigned barrier, unsigned arrivals) { state[barrier] = {arrivals, arrivals, 0, 0}; }
void barrierArrive(unsigned barrier) {
  --state[barrier].pending;
  step(state[barrier]);
}
void barrierExpect(unsigned barrier, unsigned bytes) {
  state[barrier].bytes += bytes;
  barrierArrive(barrier);
}
void barrierWait(unsigned barrier, unsigned parity) {
  emulated::waitUntil([=] { return state[barrier].phase != parity; });
}

void copyBox(unsigned to, const CUtensorMap* map, int inner, int outer, unsigned barrier) {
  if (to % (map->swizzled ? 1024 : 128)) std::abort();
  const int64_t bytes = map->elementBytes, rowBytes = map->boxInner * bytes;
  if (to + rowBytes * map->boxOuter > int64_t(emulated::sharedSize)) std::abort();
  for (int64_t row = 0; row < map->boxOuter; ++row) {
    for (int64_t i = 0; i < map->boxInner; ++i) {
      const bool inside = inner + i < map->inner && outer + row < map->outer;
      const unsigned at = to + unsigned(row * rowBytes + i * bytes);
      uint8_t* target = emulated::shared() + (map->swizzled ? swizzle(at) : at);
      if (inside) std::memcpy(target, map->data + (outer + row) * map->pitch + (inner + i) * bytes, size_t(bytes));
      else std::memset(target, 0, size_t(bytes));
    }
  }
  state[barrier].bytes -= rowBytes * map->boxOuter;
  step(state[barrier]);
}

}  // namespace dbf::cuda
