// See blocked.h.
#include "kernels/matmul/blocked.h"

#include <algorithm>
#include <cstring>

#include "kernels/common/prefetch.h"
#include "kernels/common/scratch.h"

namespace accel::kernels {

namespace {

// Multiply-adds that a tile should have at least, to be worth a chunk of the team's work.
constexpr int64_t kChunkWork = 1 << 20;
// Packed panels that the team shares are made for at most this much of A and of B, so that they
// stay in the last level cache, and for this many bytes of one lane.
constexpr int64_t kSharedBytes = 8 << 20, kSharedLaneBytes = 8 << 10;
constexpr int64_t kSharedLanes = 512;
// Lanes that lie side by side in memory are packed together up to so many bytes, and so many values
// of k at a time: panel after panel would come back for a few bytes of lines that lie at strides of
// a power of two, and are gone from the caches by then.
constexpr int64_t kPackedBytes = 256, kPackedSteps = 16;
// Rows this far apart share a set of the first level cache, which has fewer ways than a panel rows.
constexpr int64_t kSetBytes = 4096;

// The products of parts that make up one value times another: one of the values themselves, or,
// where fp32 is split into two bf16 parts, all but that of the low parts.
struct PartProduct {
  int a, b;  // index of the part
};
constexpr PartProduct kPartProducts[] = {{0, 0}, {0, 1}, {1, 0}};

// One matrix product of the batch.
class BlockedProduct {
 public:
  BlockedProduct(const Matmul& args, const Blocking& blocking, int64_t batch, Team team)
      : args_(args),
        blocking_(blocking),
        engine_(*blocking.engine),
        batch_(batch),
        team_(team),
        a_(rows_of(args, batch)),
        b_(columns_of(args, batch)),
        direct_(args.out.data && args.out.column_stride == 1 &&
                stored_as(args) == engine_.accumulator),
        rounds_(args.out.data && args.out.column_stride == 1 && rounds_sums(args, engine_)),
        reads_rows_(engine_.reads_rows && !blocking.share_a && a_.dtype == engine_.packed &&
                    args.compute == engine_.packed && a_.k_stride == 1 &&
                    args.k % engine_.k_group == 0 &&
                    a_.lane_stride * size_of(a_.dtype) % kSetBytes != 0),
        rows_per_panel_(args.m / blocking.row_panels),
        longer_panels_(args.m % blocking.row_panels) {}

  void run() {
    const Blocking& s = blocking_;
    for (int64_t row = 0; row < s.row_tiles; row += s.shared_row_tiles) {
      row_tiles_ = {row, std::min(row + s.shared_row_tiles, s.row_tiles)};
      for (int64_t column = 0; column < s.column_tiles; column += s.shared_column_tiles) {
        column_tiles_ = {column, std::min(column + s.shared_column_tiles, s.column_tiles)};
        const int64_t end = std::max<int64_t>(args_.k, 1);  // k = 0 is one empty piece
        for (int64_t k = 0; k < end; k += s.k_shared) {
          k_ = {k, std::min(k + s.k_shared, args_.k)};
          // A stays packed while columns go on, unless k was cut.
          run_piece(column == 0 || s.k_shared < args_.k);
        }
      }
    }
  }

 private:
  struct Range {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
  };

  // Rows are dealt evenly to panels: a short last panel would not keep the multipliers busy.
  int64_t first_row(int64_t panel) const {
    return panel * rows_per_panel_ + std::min(panel, longer_panels_);
  }
  int rows_of_panel(int64_t panel) const {
    return static_cast<int>(rows_per_panel_ + (panel < longer_panels_));
  }
  int columns_of_panel(int64_t panel) const {
    return static_cast<int>(std::min<int64_t>(engine_.columns, args_.n - panel * engine_.columns));
  }
  Range row_panels(Range tiles) const {
    return {tiles.begin * blocking_.tile_row_panels,
            std::min(tiles.end * blocking_.tile_row_panels, blocking_.row_panels)};
  }
  Range column_panels(Range tiles) const {
    return {tiles.begin * blocking_.tile_column_panels,
            std::min(tiles.end * blocking_.tile_column_panels, blocking_.column_panels)};
  }
  // Bytes of k values of one part of a panel.
  int64_t a_bytes(int64_t k) const {
    return round_up(k, engine_.k_group) * engine_.row_pitch * engine_.packed_size;
  }
  int64_t b_bytes(int64_t k) const {
    return round_up(k, engine_.k_group) * engine_.columns * engine_.packed_size;
  }

  // The chunk-th group of `size` panels.
  static Range part_of(Range panels, int64_t chunk, int64_t size) {
    const int64_t begin = panels.begin + chunk * size;
    return {begin, std::min(begin + size, panels.end)};
  }
  Range block_of_k(int64_t from) const {
    return {from, std::min(from + blocking_.k_block, k_.end)};
  }

  // Packs all parts of one panel for a block of k.
  void pack_a(int64_t panel, Range k, char* packed) const {
    for (int part = 0; part < blocking_.parts; ++part, packed += a_bytes(k.size())) {
      engine_.pack_rows(advance(a_, first_row(panel), k.begin), args_.compute,
                        static_cast<Part>(part), rows_of_panel(panel), k.size(), packed);
    }
  }
  void pack_b(int64_t panel, Range k, char* packed) const {
    for (int part = 0; part < blocking_.parts; ++part, packed += b_bytes(k.size())) {
      engine_.pack_columns(advance(b_, panel * engine_.columns, k.begin), args_.compute,
                           static_cast<Part>(part), columns_of_panel(panel), k.size(), packed);
    }
  }

  // How many panels are best packed together.
  int64_t panels_together(const PanelSource& source, int lanes) const {
    if (source.lane_stride != 1 || blocking_.parts != 1 || !engine_.packs_pieces) return 1;
    return divide_up(kPackedBytes, lanes * size_of(source.dtype));
  }
  // Calls pack(panel, piece) for the pieces of a block of k, panels together or one after the
  // other.
  template <typename Pack>
  static void for_pieces(Range panels, Range k, bool together, Pack pack) {
    const int64_t steps = together ? kPackedSteps : std::max<int64_t>(k.size(), 1);
    for (int64_t from = k.begin; from < k.end; from += steps) {
      const Range piece{from, std::min(from + steps, k.end)};
      for (int64_t panel = panels.begin; panel < panels.end; ++panel) pack(panel, piece);
    }
  }

  // Where the team's packed panels are: blocks of k outermost, so that the panels a tile multiplies
  // at a time are contiguous. Far apart at a power of two they would share sets of the caches.
  char* shared_a(int64_t panel, Range k) const {
    const Range panels = row_panels(row_tiles_);
    return shared_a_ + (panels.size() * a_bytes(k.begin - k_.begin) +
                        (panel - panels.begin) * a_bytes(k.size())) *
                           blocking_.parts;
  }
  char* shared_b(int64_t panel, Range k) const {
    const Range panels = column_panels(column_tiles_);
    return shared_b_ + (panels.size() * b_bytes(k.begin - k_.begin) +
                        (panel - panels.begin) * b_bytes(k.size())) *
                           blocking_.parts;
  }

  void run_piece(bool pack_rows) {
    const Range rows = row_panels(row_tiles_), columns = column_panels(column_tiles_);
    if (blocking_.share_a) {
      shared_a_ = static_cast<char*>(
          scratch(ScratchSlot::A, rows.size() * a_bytes(k_.size()) * blocking_.parts));
    }
    const int64_t shared_b_bytes =
        blocking_.share_b ? round_up(columns.size() * b_bytes(k_.size()) * blocking_.parts, 64) : 0;
    // Sums of a product whose k is cut wait here, where the output cannot hold them.
    const bool keep_sums = blocking_.k_shared < args_.k && !direct_;
    sums_stride_ = columns.size() * engine_.columns;
    const int64_t sums_bytes = keep_sums ? (first_row(rows.end) - first_row(rows.begin)) *
                                               sums_stride_ * size_of(engine_.accumulator)
                                         : 0;
    if (shared_b_bytes + sums_bytes > 0) {
      // The sums come first: they must stay where they are when a shorter last piece needs less.
      sums_ = static_cast<char*>(scratch(ScratchSlot::B, sums_bytes + shared_b_bytes));
      shared_b_ = sums_ + sums_bytes;
    }
    if (!keep_sums) sums_ = nullptr;

    // Panels are packed several at a time when they are short in k, too.
    const int64_t a_together = panels_together(a_, engine_.rows);
    const int64_t b_together = panels_together(b_, engine_.columns);
    const int64_t short_panels = 512 / std::max<int64_t>(k_.size(), 1);
    const int64_t a_group = std::max(a_together, short_panels);
    const int64_t b_group = std::max(b_together, short_panels);
    const int64_t a_chunks = blocking_.share_a && pack_rows ? divide_up(rows.size(), a_group) : 0;
    const int64_t b_chunks = blocking_.share_b ? divide_up(columns.size(), b_group) : 0;
    if (a_chunks + b_chunks > 0) {
      for_chunks(team_, a_chunks + b_chunks, [&](int64_t chunk) {
        for (int64_t from = k_.begin; from < k_.end; from += blocking_.k_block) {
          const Range k = block_of_k(from);
          if (chunk < a_chunks) {
            const Range panels = part_of(rows, chunk, a_group);
            for_pieces(panels, k, a_together > 1, [&](int64_t panel, Range piece) {
              pack_a(panel, piece, shared_a(panel, k) + a_bytes(piece.begin - k.begin));
            });
          } else {
            const Range panels = part_of(columns, chunk - a_chunks, b_group);
            for_pieces(panels, k, b_together > 1, [&](int64_t panel, Range piece) {
              pack_b(panel, piece, shared_b(panel, k) + b_bytes(piece.begin - k.begin));
            });
          }
        }
      });
    }
    // Tiles of the same columns follow each other: their block of B stays in the second level
    // cache.
    const int64_t tiles = row_tiles_.size() * column_tiles_.size();
    for_chunks(team_, tiles, [&](int64_t tile) {
      run_tile_of_c(row_tiles_.begin + tile % row_tiles_.size(),
                    column_tiles_.begin + tile / row_tiles_.size());
      if (engine_.release) engine_.release();
    });
  }

  void run_tile_of_c(int64_t row_tile, int64_t column_tile) const {
    const Range rows = row_panels({row_tile, row_tile + 1});
    const Range columns = column_panels({column_tile, column_tile + 1});
    const int64_t first_column = columns.begin * engine_.columns;
    const Region region{batch_, first_row(rows.begin), first_column,
                        first_row(rows.end) - first_row(rows.begin),
                        std::min(args_.n, columns.end * engine_.columns) - first_column};
    const int64_t size = size_of(engine_.accumulator);
    char* c;
    int64_t c_stride;
    if (direct_) {
      c = output_address(args_, batch_, region.row, region.column);
      c_stride = args_.out.row_stride;
    } else if (sums_) {
      const Range all_rows = row_panels(row_tiles_), all_columns = column_panels(column_tiles_);
      c_stride = sums_stride_;
      c = sums_ + ((region.row - first_row(all_rows.begin)) * c_stride + first_column -
                   all_columns.begin * engine_.columns) *
                      size;
    } else {
      c_stride = columns.size() * engine_.columns;
      c = static_cast<char*>(scratch(ScratchSlot::C, region.rows * c_stride * size));
    }

    if (args_.k == 0) {
      for (int64_t row = 0; row < region.rows; ++row) {
        std::memset(c + row * c_stride * size, 0, region.columns * size);
      }
    }
    multiply_blocks(region, rows, columns, c, c_stride);
    // What is rounded to 16 bits in registers has been stored from there.
    const bool finished = rounds_ && !args_.widened && args_.k > 0;
    if (!finished && k_.end == args_.k) {
      finish(args_, region, c, c_stride, &engine_, rounds_ || args_.k == 0);
    }
  }

  // Asks for where a product is stored first while it is computed: stores would wait for each line.
  [[gnu::always_inline]] void prefetch(const PanelProduct& product) const {
    if (product.rounded) {
      constexpr int64_t kSize = sizeof(*product.rounded);
      prefetch_rows(product.rounded, product.rows, product.rounded_stride * kSize,
                    product.columns * kSize);
    } else if (direct_ && product.update == Update::Store) {
      const int64_t size = size_of(engine_.accumulator);
      prefetch_rows(product.c, product.rows, product.c_stride * size, product.columns * size);
    }
  }

  void multiply_blocks(const Region& region, Range rows, Range columns, char* c,
                       int64_t c_stride) const {
    const int64_t size = size_of(engine_.accumulator);
    const int64_t block_a = a_bytes(blocking_.k_block), block_b = b_bytes(blocking_.k_block);
    const int64_t own_a_bytes =
        blocking_.share_a || reads_rows_ ? 0 : rows.size() * block_a * blocking_.parts;
    const int64_t own_b_bytes = blocking_.share_b ? 0 : block_b * blocking_.parts;
    char* own_a = own_a_bytes + own_b_bytes > 0
                      ? static_cast<char*>(scratch(ScratchSlot::D, own_a_bytes + own_b_bytes))
                      : nullptr;
    char* own_b = own_a + own_a_bytes;

    const int products = blocking_.parts == 1 ? 1 : 3;
    for (int64_t from = k_.begin; from < k_.end; from += blocking_.k_block) {
      const Range k = block_of_k(from);
      const int64_t a_part = a_bytes(k.size()), b_part = b_bytes(k.size());
      const char* block_of_a = own_a;
      if (blocking_.share_a) {
        block_of_a = shared_a(rows.begin, k);
      } else if (!reads_rows_) {
        const bool together = panels_together(a_, engine_.rows) > 1;
        for_pieces(rows, k, together, [&](int64_t panel, Range piece) {
          pack_a(panel, piece,
                 own_a + (panel - rows.begin) * a_part * blocking_.parts +
                     a_bytes(piece.begin - k.begin));
        });
      }
      for (int64_t column = columns.begin; column < columns.end; ++column) {
        const char* b = own_b;
        if (blocking_.share_b) {
          b = shared_b(column, k);
        } else {
          pack_b(column, k, own_b);
        }
        for (int64_t panel = rows.begin; panel < rows.end; ++panel) {
          const int64_t row = first_row(panel) - region.row;
          const int64_t offset = (column - columns.begin) * engine_.columns;
          PanelProduct product;
          product.rows = rows_of_panel(panel);
          product.columns = columns_of_panel(column);
          product.k = k.size();
          product.c = c + (row * c_stride + offset) * size;
          product.c_stride = c_stride;
          product.rounds = rounds_ && k.end == args_.k;
          if (product.rounds && !args_.widened) {
            product.rounded = reinterpret_cast<uint16_t*>(
                output_address(args_, batch_, region.row + row, region.column + offset));
            product.rounded_stride = args_.out.row_stride;
          }
          product.update = from == 0 ? Update::Store : Update::Add;
          prefetch(product);
          const char* a;
          if (reads_rows_) {
            a = advance(a_, region.row + row, from).data;
            product.a_row_bytes = a_.lane_stride * size_of(a_.dtype);
          } else {
            a = block_of_a + (panel - rows.begin) * a_part * blocking_.parts;
          }
          for (int i = 0; i < products; ++i) {
            product.a = a + kPartProducts[i].a * a_part;
            product.b = b + kPartProducts[i].b * b_part;
            engine_.multiply(product);
            product.update = Update::Add;
          }
        }
      }
    }
  }

  const Matmul& args_;
  const Blocking& blocking_;
  const Engine& engine_;
  const int64_t batch_;
  const Team team_;
  const PanelSource a_, b_;
  const bool direct_;      // sums go straight to the output
  const bool rounds_;      // the last multiply() rounds them, to the output
  const bool reads_rows_;  // A is multiplied as it lies in memory
  const int64_t rows_per_panel_, longer_panels_;

  // What is being worked on: tiles, a range of k, and what the team shares for it.
  Range row_tiles_{}, column_tiles_{}, k_{};
  char* shared_a_ = nullptr;
  char* shared_b_ = nullptr;
  char* sums_ = nullptr;
  int64_t sums_stride_ = 0;
};

}  // namespace

Blocking choose_blocking(const Matmul& args, const Engine& engine, int parts, int width) {
  Blocking blocking{};
  blocking.engine = &engine;
  blocking.parts = parts;
  const int64_t k = std::max<int64_t>(args.k, 1);
  blocking.k_block = round_up(divide_up(k, divide_up(k, engine.k_block)), engine.k_group);
  blocking.row_panels = divide_up(args.m, engine.rows);
  blocking.column_panels = divide_up(args.n, engine.columns);

  int64_t tile_rows = std::max(1, engine.tile_rows / engine.rows);
  int64_t tile_columns = std::max(1, engine.tile_columns / engine.columns);
  tile_rows = std::min(tile_rows, blocking.row_panels);
  tile_columns = std::min(tile_columns, blocking.column_panels);
  const auto tiles = [&] {
    return divide_up(blocking.row_panels, tile_rows) *
           divide_up(blocking.column_panels, tile_columns);
  };
  const auto tile_work = [&] {
    return tile_rows * engine.rows * tile_columns * engine.columns * k;
  };
  while (tile_work() < kChunkWork && tile_rows < 64 && tiles() > 4 * width) tile_rows *= 2;
  // Enough tiles for an even share of work: shorter ones first, which leaves B packed as it is.
  while (width > 1 && tiles() < 8 * width && tile_rows > 1 &&
         tile_rows * engine.rows > engine.tile_rows / 2 && tile_work() > kChunkWork) {
    tile_rows = divide_up(tile_rows, 2);
  }
  while (width > 1 && tiles() < 2 * width && tile_work() > kChunkWork / 2 &&
         (tile_columns > 1 || tile_rows > 1)) {
    int64_t& longer = tile_columns > 2 || tile_rows == 1 ? tile_columns : tile_rows;
    longer = divide_up(longer, 2);
  }
  blocking.tile_row_panels = tile_rows;
  blocking.tile_column_panels = tile_columns;
  blocking.row_tiles = divide_up(blocking.row_panels, tile_rows);
  blocking.column_tiles = divide_up(blocking.column_panels, tile_columns);
  blocking.share_a = blocking.column_tiles > 1;
  blocking.share_b = blocking.row_tiles > 1;

  const int64_t most_k = std::max(blocking.k_block, kSharedLaneBytes / engine.packed_size /
                                                        blocking.k_block * blocking.k_block);
  blocking.k_shared = std::min(round_up(k, engine.k_group), most_k);
  const bool pieces_of_k = blocking.k_shared < k;
  const int64_t lanes =
      std::max(kSharedLanes, kSharedBytes / (blocking.k_shared * engine.packed_size * parts));
  const bool cut_rows = blocking.share_a || pieces_of_k;
  const bool cut_columns = blocking.share_b || pieces_of_k;
  blocking.shared_row_tiles =
      cut_rows ? std::clamp<int64_t>(lanes / (tile_rows * engine.rows), 1, blocking.row_tiles)
               : blocking.row_tiles;
  blocking.shared_column_tiles =
      cut_columns
          ? std::clamp<int64_t>(lanes / (tile_columns * engine.columns), 1, blocking.column_tiles)
          : blocking.column_tiles;
  return blocking;
}

void blocked_product(const Matmul& args, const Blocking& blocking, int64_t batch, Team team) {
  BlockedProduct(args, blocking, batch, team).run();
}

}  // namespace accel::kernels
