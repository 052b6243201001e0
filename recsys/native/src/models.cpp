// The compiled models for Python: weights come as a dict of arrays, which are read in place; calls run without Python's lock.
#include <string>

#include "arrays.hpp"
#include "models.hpp"

namespace recsys {

namespace {

// The arrays of a model by name.
class Arrays {
  public:
    explicit Arrays(const py::dict& arrays) : arrays_(arrays) {}

    bool has(const std::string& name) const { return arrays_.contains(name); }

    template <typename T>
    View<T> of(const std::string& name, int dimensions) const {
        check(has(name), ("lacks " + name).c_str());
        const py::handle found = arrays_[name.c_str()];
        check(py::isinstance<Array<T>>(found), (name + ": of another type").c_str());
        return view(py::reinterpret_borrow<Array<T>>(found), name.c_str(), dimensions);
    }

    template <typename T>
    T number(const std::string& name) const {
        const auto found = of<T>(name, 1);
        check(found.rows == 1, (name + ": one number").c_str());
        return found[0];
    }

    Linear linear(const std::string& name) const {
        return Linear(of<float>(name + "_w", 2), of<float>(name + "_b", 1), name.c_str());
    }

  private:
    py::dict arrays_;
};

RankerWeights ranker_weights(const Arrays& arrays, size_t expert_layers) {
    RankerWeights w;
    w.buckets = arrays.number<int32_t>("buckets");
    w.offset = arrays.has("offset") && arrays.number<int32_t>("offset") != 0;
    w.rows = arrays.of<int8_t>("rows", 2);
    w.row_scale = arrays.of<float>("row_scale", 1);
    w.codes = arrays.of<uint8_t>("codes", 2);
    w.starts = arrays.of<int32_t>("starts", 1);
    w.fields = arrays.of<float>("fields", 2);
    w.field_bias = arrays.of<float>("field_bias", 1);
    w.types = arrays.of<float>("types", 2);
    w.gaps = arrays.of<float>("gaps", 2);
    w.positions = arrays.of<float>("positions", 2);
    w.mean = arrays.of<float>("mean", 1);
    w.scale = arrays.of<float>("scale", 1);
    w.query = arrays.linear("query");
    w.key = arrays.linear("key");
    w.value = arrays.linear("value");
    w.down = arrays.linear("down");
    w.up = arrays.linear("up");
    w.wide = arrays.linear("wide");
    w.tower = arrays.linear("tower");
    for (size_t i = 0; i < expert_layers; i++) w.expert.push_back(arrays.linear("expert" + std::to_string(i)));
    return w;
}

class PythonRanker {
  public:
    PythonRanker(const py::dict& arrays, size_t expert_layers)
        : arrays_(arrays), kernel_(ranker_weights(arrays_, expert_layers)) {}

    size_t features() const { return kernel_.features(); }

    py::array_t<float> run(Array<int64_t> history, Array<int64_t> types, Array<int64_t> gaps, Array<int64_t> items,
                           Array<float> features, Array<int64_t> position) const {
        py::array_t<float> heads({static_cast<py::ssize_t>(HEADS), items.shape(0)});
        const UserInput user{view(history, "history"), view(types, "types"), view(gaps, "gaps")};
        const CandidateInput candidates{view(items, "items"), view(position, "position"),
                                        view(features, "features", 2)};
        float* into = heads.mutable_data();
        py::gil_scoped_release unlocked;
        kernel_.run(user, candidates, into);
        return heads;
    }

  private:
    Arrays arrays_;  // kept alive
    RankerKernel kernel_;
};

TowerWeights tower_weights(const Arrays& arrays, size_t blocks) {
    TowerWeights w;
    w.padding = arrays.of<float>("padding", 1);
    w.types = arrays.of<float>("types", 2);
    w.gaps = arrays.of<float>("gaps", 2);
    if (arrays.has("profile")) w.profile = arrays.of<float>("profile", 2);
    w.norm = arrays.of<float>("norm", 1);
    w.scale = arrays.number<float>("scale");
    for (size_t i = 0; i < blocks; i++) {
        const std::string block = "block" + std::to_string(i) + "_";
        w.blocks.push_back({arrays.of<float>(block + "attention_norm", 1), arrays.of<float>(block + "feed_forward_norm", 1),
                            arrays.of<float>(block + "recency", 2), arrays.linear(block + "qkv"),
                            arrays.linear(block + "out"), arrays.linear(block + "gate_up"), arrays.linear(block + "down")});
    }
    return w;
}

class PythonTower {
  public:
    PythonTower(const py::dict& arrays, size_t blocks, Array<float> items)
        : arrays_(arrays), items_(items), table_(view(items, "items", 2)), kernel_(tower_weights(arrays_, blocks)) {
        check(table_.width == kernel_.width(), "item vectors of another width");
    }

    bool takes_profile() const { return kernel_.takes_profile(); }

    // history, types, gaps (B, L) and profile (B, attributes; or 0 where the tower takes none) → (B, width).
    py::array_t<float> run(Array<int64_t> history, Array<int64_t> types, Array<int64_t> gaps, Array<int64_t> profile) const {
        const auto numbers = view(history, "history", 2), t = view(types, "types", 2), g = view(gaps, "gaps", 2),
                   known = view(profile, "profile", 2);
        check(numbers.width > 0, "a history without a position");
        for (const auto& other : {t, g}) {
            check(other.rows == numbers.rows && other.width == numbers.width, "a type and a gap an event");
        }
        check(known.rows == numbers.rows, "a profile for each history");
        check(takes_profile() || known.width == 0, "the tower reads no profile");
        const size_t width = kernel_.width();
        py::array_t<float> vectors({static_cast<py::ssize_t>(numbers.rows), static_cast<py::ssize_t>(width)});
        float* into = vectors.mutable_data();
        py::gil_scoped_release unlocked;
        std::vector<float> items(numbers.width * width);
        for (size_t user = 0; user < numbers.rows; user++) {
            gather(numbers.row(user), numbers.width, items.data());
            kernel_.run({items.data(), t.row(user), g.row(user), known.row(user), numbers.width, known.width},
                        into + user * width);
        }
        return vectors;
    }

  private:
    // Number i + 1 has row i of the table; 0 is padding, and zeros.
    void gather(const int64_t* numbers, size_t n, float* into) const {
        for (size_t i = 0; i < n; i++, into += table_.width) {
            check(numbers[i] >= 0 && static_cast<size_t>(numbers[i]) <= table_.rows, "a number that is no item's");
            if (numbers[i] == 0) {
                std::fill_n(into, table_.width, 0.0f);
            } else {
                std::copy_n(table_.row(static_cast<size_t>(numbers[i] - 1)), table_.width, into);
            }
        }
    }

    Arrays arrays_;  // kept alive, as the items
    Array<float> items_;
    View<float> table_;
    TowerKernel kernel_;
};

}  // namespace

void bind_models(py::module_& m) {
    py::class_<PythonRanker>(m, "RankerKernel")
        .def(py::init<const py::dict&, size_t>(), py::arg("arrays"), py::arg("expert_layers"))
        .def_property_readonly("features", &PythonRanker::features)
        .def("run", &PythonRanker::run, py::kw_only(), py::arg("history").noconvert(), py::arg("types").noconvert(),
             py::arg("gaps").noconvert(), py::arg("items").noconvert(), py::arg("features").noconvert(),
             py::arg("position").noconvert());
    py::class_<PythonTower>(m, "TowerKernel")
        .def(py::init<const py::dict&, size_t, Array<float>>(), py::arg("arrays"), py::arg("blocks"),
             py::arg("items").noconvert())
        .def_property_readonly("takes_profile", &PythonTower::takes_profile)
        .def("run", &PythonTower::run, py::kw_only(), py::arg("history").noconvert(), py::arg("types").noconvert(),
             py::arg("gaps").noconvert(), py::arg("profile").noconvert());
}

}  // namespace recsys
