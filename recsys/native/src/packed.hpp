// MessagePack, as far as a batch needs it; every value in its shortest form, as msgspec writes it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "arrays.hpp"

namespace recsys {

class Packed {
  public:
    void integer(int64_t value) {
        check(value >= 0, "an integer of a batch is negative");
        const auto n = static_cast<uint64_t>(value);
        if (n < 0x80) bytes_.push_back(static_cast<char>(n));
        else if (n <= 0xff) tagged(0xcc, n, 1);
        else if (n <= 0xffff) tagged(0xcd, n, 2);
        else if (n <= 0xffffffff) tagged(0xce, n, 4);
        else tagged(0xcf, n, 8);
    }
    void no() { bytes_.push_back('\xc2'); }
    void array(size_t length) {
        if (length < 16) bytes_.push_back(static_cast<char>(0x90 | length));
        else if (length <= 0xffff) tagged(0xdc, length, 2);
        else tagged(0xdd, length, 4);
    }
    void text(std::string_view value) {
        const size_t length = value.size();
        if (length < 32) bytes_.push_back(static_cast<char>(0xa0 | length));
        else if (length <= 0xff) tagged(0xd9, length, 1);
        else if (length <= 0xffff) tagged(0xda, length, 2);
        else tagged(0xdb, length, 4);
        bytes_.append(value);
    }
    const std::string& bytes() const { return bytes_; }

  private:
    void tagged(int tag, uint64_t value, int width) {
        bytes_.push_back(static_cast<char>(tag));
        for (int shift = 8 * (width - 1); shift >= 0; shift -= 8) bytes_.push_back(static_cast<char>(value >> shift));
    }
    std::string bytes_;
};

}  // namespace recsys
