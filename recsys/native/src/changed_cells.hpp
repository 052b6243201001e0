// The cells that a batch changes: each once, merged by its operation.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "packed.hpp"
#include "totals.hpp"

namespace recsys {

// Texts in the order of their first use.
class Numbers {
  public:
    size_t of(std::string_view text) {
        const auto [found, fresh] = numbers_.try_emplace(std::string(text), names_.size());
        if (fresh) names_.push_back(found->first);
        return found->second;
    }
    const std::vector<std::string_view>& names() const { return names_; }

  private:
    std::unordered_map<std::string, size_t> numbers_;
    std::vector<std::string_view> names_;  // of the keys above, which stay where they are
};

// The changed cells of users or of items: by row, in the order of their first change.
class ChangedCells {
  public:
    static constexpr int64_t ONCE = -1;  // instead of an amount: the script knows it

    size_t row(std::string_view id) {
        const size_t number = ids_.of(id);
        if (number == cells_.size()) cells_.emplace_back();
        return number;
    }
    void change(size_t row, uint64_t code, char op, int64_t amount) {
        Cell& cell = find(row, code, op, amount);
        if (cell.fresh) cell.fresh = false;
        else if (op == '+') cell.amount = saturated(std::max<int64_t>(cell.amount, 0) + amount);
        else cell.amount = op == '>' ? std::max(cell.amount, amount) : std::min(cell.amount, amount);
    }
    void once(size_t row, uint64_t code, char op) { find(row, code, op, ONCE).fresh = false; }
    size_t place(size_t row, uint64_t code) { return find(row, code, '+', ONCE).place; }

    void pack(Packed& into, std::string& fields) const {
        into.array(cells_.size());
        std::string ops;
        for (size_t row = 0; row < cells_.size(); row++) {
            into.array(3);
            into.text(ids_.names()[row]);
            into.array(cells_[row].size());
            ops.clear();
            for (size_t at : cells_[row]) {
                const Cell& cell = every_[at];
                if (cell.amount == ONCE) into.no();
                else into.integer(cell.amount);
                ops.push_back(cell.op);
                for (int shift = 56; shift >= 0; shift -= 8) fields.push_back(static_cast<char>(cell.code >> shift));
            }
            into.text(ops);
        }
    }

  private:
    struct Cell {
        size_t row;
        uint64_t code;
        int64_t amount;
        size_t place;  // in its row, from 1
        char op;
        bool fresh;
    };

    Cell& find(size_t row, uint64_t code, char op, int64_t amount) {
        if (2 * (every_.size() + 1) > slots_.size()) grow();
        uint32_t& slot = slot_of(row, code);
        if (!slot) {
            every_.push_back({row, code, amount, cells_[row].size() + 1, op, true});
            cells_[row].push_back(every_.size() - 1);
            slot = static_cast<uint32_t>(every_.size());
        }
        return every_[slot - 1];
    }
    uint32_t& slot_of(size_t row, uint64_t code) {
        uint64_t mixed = (code ^ row * 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
        for (size_t at = (mixed ^ mixed >> 31);; at++) {
            uint32_t& slot = slots_[at & (slots_.size() - 1)];
            if (!slot || (every_[slot - 1].row == row && every_[slot - 1].code == code)) return slot;
        }
    }
    void grow() {
        slots_.assign(std::max<size_t>(1024, 2 * slots_.size()), 0);
        for (size_t i = 0; i < every_.size(); i++) {
            slot_of(every_[i].row, every_[i].code) = static_cast<uint32_t>(i + 1);
        }
    }

    Numbers ids_;
    std::vector<std::vector<size_t>> cells_;  // by row, places in `every_`
    std::vector<Cell> every_;
    std::vector<uint32_t> slots_;  // open addressing: 1 + place in `every_`, 0: free; a power of two
};

}  // namespace recsys
