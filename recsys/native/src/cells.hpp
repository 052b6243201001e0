// Cells as Redis returns them: the counterpart of `recsys.store.encoding._cells`.
#pragma once
#include <charconv>
#include <cstdint>
#include <string_view>
#include <vector>

#include "arrays.hpp"

namespace recsys {

struct Cells {
    std::vector<int64_t> codes, amounts;
};

inline std::string_view text_of(PyObject* bytes) {
    if (!PyBytes_Check(bytes)) throw py::value_error("a reply that is not bytes");
    return {PyBytes_AS_STRING(bytes), static_cast<size_t>(PyBytes_GET_SIZE(bytes))};
}

// flat: fields (eight bytes, big-endian) and amounts (decimal) in turn. aggregates: how many the definitions have.
inline Cells cells_of(const py::list& flat, int64_t aggregates) {
    if (flat.size() % 2) throw py::value_error("a field without an amount");
    Cells found;
    found.codes.reserve(flat.size() / 2);
    found.amounts.reserve(flat.size() / 2);
    for (size_t i = 0; i < flat.size(); i += 2) {
        const std::string_view field = text_of(PyList_GET_ITEM(flat.ptr(), static_cast<Py_ssize_t>(i)));
        const std::string_view amount = text_of(PyList_GET_ITEM(flat.ptr(), static_cast<Py_ssize_t>(i + 1)));
        uint64_t code = 0;
        for (unsigned char byte : field) code = code << 8 | byte;
        if (field.size() != 8 || code >> 63 || static_cast<int64_t>(code >> 48) >= aggregates) {
            throw py::value_error("a field is not a cell of the feature definitions");
        }
        int64_t number = 0;
        const auto [end, error] = std::from_chars(amount.data(), amount.data() + amount.size(), number);
        if (error != std::errc() || end != amount.data() + amount.size()) {
            throw py::value_error("an amount is not an integer of 64 bits");
        }
        found.codes.push_back(static_cast<int64_t>(code));
        found.amounts.push_back(number);
    }
    return found;
}

}  // namespace recsys
