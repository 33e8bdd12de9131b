// Case texts: how they parse, that equal ones give equal bytes, and that the generators keep their promises.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <stdexcept>

#include "fathom/attend.h"
#include "fathom/linear.h"
#include "harness/cache_args.h"
#include "harness/case_builder.h"
#include "harness/case_file.h"
#include "harness/costs.h"
#include "harness/op_case.h"
#include "harness/random.h"

namespace fathom::harness {
namespace {

OpCase made(const char* op, const char* text) {
  auto built = make_case(op, text);
  if (!built.ok()) throw std::invalid_argument(built.status().text());
  return std::move(built).value();
}

TEST(Random, IsFixedForEver) {
  Random random(1);
  EXPECT_EQ(random.bits(), 0xb3f2af6d0fc710c5u);
  EXPECT_EQ(random.bits(), 0x853b559647364ceau);
  double sum = 0, square = 0;
  for (int i = 0; i < 100000; ++i) {
    const double value = random.normal();
    sum += value;
    square += value * value;
  }
  EXPECT_NEAR(sum / 100000, 0, 0.02);
  EXPECT_NEAR(square / 100000, 1, 0.02);
}

TEST(Random, StaysInBounds) {
  Random random(2);
  EXPECT_EQ(random.below(0), 0);
  EXPECT_EQ(random.below(1), 0);
  std::set<std::int64_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(random.between(-2, 2));
  EXPECT_EQ(seen, (std::set<std::int64_t>{-2, -1, 0, 1, 2}));
}

TEST(CaseText, FieldsAndWordsGoTheirWays) {
  const OpCase built = made("linear", "num_tokens=3 in_dim=8 seed=9 out_dim=4 strided=1 x_dtype=f32");
  EXPECT_EQ(built.problem_as<LinearProblem>().in_dim, 8);
  EXPECT_EQ(built.problem_as<LinearProblem>().x_dtype, DType::f32);
  EXPECT_EQ(built.words.at("seed"), 9);
  EXPECT_EQ(built.arg("x").view.strides[0], 8 + 6);
  EXPECT_EQ(built.arg("x").view.shape[0], 3);
}

TEST(CaseText, RefusesWhatItDoesNotKnow) {
  const std::pair<const char*, const char*> kRefused[] = {
      {"seed=1 seed=2 num_tokens=1 in_dim=1 out_dim=1", "seed is given twice"},
      {"seed=-1 num_tokens=1 in_dim=1 out_dim=1", "seed is \"-1\""},
      {"seed=x num_tokens=1 in_dim=1 out_dim=1", "seed is \"x\""},
      {"seed num_tokens=1 in_dim=1 out_dim=1", "seed is \"\""},
      {"seed=99999999999999999999 in_dim=1 out_dim=1", "seed is"},
      {"colour=1 num_tokens=1 in_dim=1 out_dim=1", "\"colour\" is not a field"},
      {"num_tokens=1 in_dim=1", "out_dim is 0"},
      {"num_tokens=1 in_dim=0 out_dim=1", "in_dim is"},
      {"num_tokens=2 tokens=3 in_dim=1 out_dim=1", "tokens is 3, expected at most num_tokens=2"},
      {"num_tokens=2 seqs=1 in_dim=1 out_dim=1", "seqs is 1"},
      {"", "is 0"},
  };
  for (const auto& [text, sentence] : kRefused) {
    const auto built = make_case("linear", text);
    ASSERT_FALSE(built.ok()) << text;
    EXPECT_NE(std::string(built.status().text()).find(sentence), std::string::npos)
        << text << ": " << built.status().text();
  }
  EXPECT_FALSE(make_case("no_such_op", "").ok());
}

TEST(CaseText, EqualTextsGiveEqualBytesAndSeedsDiffer) {
  for (const OpSpec* op : op_table()) {
    const auto cases = read_cases(FATHOM_CASES_DIR, op->name, "smoke");
    ASSERT_TRUE(cases.ok()) << cases.status().text();
    const std::string text = cases->front();
    const OpCase first = made(op->name, text.c_str()), second = made(op->name, text.c_str()),
                 other = made(op->name, (text + " seed=77").c_str());
    bool differs = false;
    for (std::size_t i = 0; i < first.args.size(); ++i) {
      EXPECT_EQ(first.args[i].checksum, second.args[i].checksum) << op->name << " " << op->args[i].name;
      EXPECT_EQ(first.args[i].presence, second.args[i].presence);
      differs = differs || first.args[i].checksum != other.args[i].checksum;
    }
    EXPECT_TRUE(differs) << op->name;
  }
}

// Every line of every file must name a case, whatever the machine; a wrong line would be skipped silently otherwise.
TEST(CaseFiles, EveryLineOfEveryOpBuildsAndHasACost) {
  for (const OpSpec* op : op_table()) {
    for (const char* set : {"smoke", "ci"}) {
      const auto cases = read_cases(FATHOM_CASES_DIR, op->name, set);
      ASSERT_TRUE(cases.ok()) << cases.status().text();
      std::set<std::string> distinct;
      for (const std::string& text : cases.value()) {
        const auto built = make_case(op->name, text);
        ASSERT_TRUE(built.ok()) << op->name << " " << text << ": " << built.status().text();
        EXPECT_TRUE(cost_of(built.value()).ok()) << op->name;
        EXPECT_TRUE(distinct.insert(text).second) << "twice: " << text;
      }
    }
    // The other files are too large to build here; their problems must parse.
    for (const char* set : {"model", "serve"}) {
      const auto large = read_cases(FATHOM_CASES_DIR, op->name, set);
      ASSERT_TRUE(large.ok()) << large.status().text();
      for (const std::string& text : large.value()) {
        std::string fields = text.substr(0, text.find(" context="));
        std::vector<std::byte> problem(op->problem->size);
        const Status status = parse_problem(*op->problem, fields.substr(0, fields.find(" ties=")), problem.data());
        EXPECT_TRUE(status.ok()) << op->name << " " << text << ": " << status.text();
      }
    }
  }
}

TEST(CaseFiles, LinesAndComments) {
  EXPECT_EQ(case_lines("# all\n\n a=1 # why\r\n\t\nb=2"), (std::vector<std::string>{"a=1", "b=2"}));
  EXPECT_TRUE(case_lines("").empty());
  EXPECT_FALSE(read_cases("/nowhere", "attend", "ci").ok());
  EXPECT_FALSE(read_cases(FATHOM_CASES_DIR, "attend", "no_such_set").ok());
}

TEST(Generators, PagesStandInNoOrderAndUnusedRowsAreNaN) {
  const OpCase built =
      made("attend",
           "num_tokens=3 num_seqs=2 num_heads=1 window_width=40 window_page_size=4 window_format=kv_f32 context=40");
  const TensorView& table = built.arg("window.block_table").view;
  bool identity = true;
  std::set<std::int32_t> pages;
  for (std::int64_t s = 0; s < table.shape[0]; ++s) {
    for (std::int64_t i = 0; i < table.shape[1]; ++i) {
      const std::int32_t page = table.row<std::int32_t>(s)[i];
      if (page < 0) continue;
      EXPECT_TRUE(pages.insert(page).second) << "page " << page << " is used twice";
      identity = identity && page == static_cast<std::int32_t>(s * table.shape[1] + i);
    }
  }
  EXPECT_GE(pages.size(), 10u);
  EXPECT_FALSE(identity);
  const auto cache = cache_of(built, built.index_of("window.cache"), built.arg("window.cache").view);
  ASSERT_TRUE(cache.has_value());
  std::int64_t unused = 0;
  for (std::int64_t slot = 0; slot < cache->num_slots(); ++slot) {
    const auto* row = reinterpret_cast<const float*>(cache->row(slot));
    if (std::isnan(row[0])) ++unused;
  }
  EXPECT_GT(unused, 0);
  EXPECT_LT(unused, cache->num_slots());
}

TEST(Generators, ListsNameWrittenRowsUpToTheirLength) {
  const OpCase built =
      made("attend", "num_tokens=20 num_heads=1 window_rows=list window_width=30 window_format=kv_f32 holes=1 seed=5");
  const auto cache = cache_of(built, built.index_of("window.cache"), built.arg("window.cache").view);
  ASSERT_TRUE(cache.has_value());
  const TensorView &indices = built.arg("window.indices").view, &lengths = built.arg("window.lengths").view;
  std::int64_t absent = 0, traps = 0;
  for (std::int64_t t = 0; t < 20; ++t) {
    for (std::int64_t i = 0; i < 30; ++i) {
      const std::int32_t slot = indices.row<std::int32_t>(t)[i];
      if (slot == -1) {
        ++absent;
        continue;
      }
      ASSERT_TRUE(cache->holds(slot));
      const bool written = !std::isnan(reinterpret_cast<const float*>(cache->row(slot))[0]);
      if (i < integer_at(lengths, t)) {
        EXPECT_TRUE(written);
      } else {
        traps += !written;
      }
    }
  }
  EXPECT_GT(absent, 0);
  EXPECT_GT(traps, 0);
}

TEST(Generators, SlotsAreDistinctAndInsideUnlessHostile) {
  const OpCase built = made("project", "num_tokens=40 hidden_size=32 num_heads=1 q_rank=16 window_page_size=3");
  const TensorView& slots = built.arg("slot_mapping").view;
  const auto cache = cache_of(built, built.index_of("window_cache"), built.arg("window_cache").view);
  std::set<std::int64_t> seen;
  for (std::int64_t t = 0; t < 40; ++t) {
    EXPECT_TRUE(cache->holds(integer_at(slots, t)));
    EXPECT_TRUE(seen.insert(integer_at(slots, t)).second);
  }
}

TEST(Costs, CountWhatTheFormulaSays) {
  const OpCase product = made("linear", "num_tokens=3 in_dim=128 out_dim=256 groups=2 weight_dtype=e4m3");
  const auto cost = cost_of(product);
  ASSERT_TRUE(cost.ok());
  EXPECT_EQ(cost->operations, 2.0 * 3 * 128 * 256 * 2);
  EXPECT_EQ(cost->read_bytes, 3 * 256 * 2 + 2 * 256 * 128 + 4 * 1);  // x, weight, scales
  EXPECT_EQ(cost->written_bytes, 3 * 512 * 2);

  const OpCase attention =
      made("attend",
           "num_tokens=1 num_heads=4 window_rows=list window_width=10 outputs=0 sink=0 window_format=kv_bf16 seed=3");
  const TensorView& lengths = attention.arg("window.lengths").view;
  const double rows = lengths.is_absent() ? 10 : static_cast<double>(integer_at(lengths, 0));
  const auto attention_cost = cost_of(attention);
  ASSERT_TRUE(attention_cost.ok());
  EXPECT_EQ(attention_cost->operations, 2 * rows * 4 * 1024);
  EXPECT_EQ(attention_cost->written_bytes, 4 * 512 * 2);
}

TEST(CasesFolder, IsTheInstalledOneWhereThereIsOne) {
  const std::string prefix = testing::TempDir() + "fathom_prefix";
  std::filesystem::remove_all(prefix);
  std::filesystem::create_directories(prefix + "/bin");
  const std::string program = prefix + "/bin/fathom";
  EXPECT_EQ(cases_folder_of(program), FATHOM_CASES_DIR);
  EXPECT_EQ(cases_folder_of(""), FATHOM_CASES_DIR);
  std::filesystem::create_directories(prefix + "/share/fathom/cases");
  EXPECT_EQ(cases_folder_of(program), prefix + "/share/fathom/cases");
  std::filesystem::remove_all(prefix);
  EXPECT_EQ(default_cases_folder(), FATHOM_CASES_DIR) << "in the build tree";
}

}  // namespace
}  // namespace fathom::harness
