// SPDX-License-Identifier: Apache-2.0
//
// merge_view_test.cc - where blocks are found, and how far a run reaches.
//
// The view during a merge is proved block by block by crash_test; here are the
// answers one by one, and the runs that a large read is cut into.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "daemon/base/bytes.h"
#include "daemon/cow/loader.h"
#include "daemon/merge/merged_bytes.h"
#include "daemon/merge/view.h"
#include "test/sim/scenario.h"

namespace dmu::merge {
namespace {

using Where = Piece::Where;

// Blocks: 0 kept | 1<-5 2<-6 | 3 zero | 4 zero | 5 kept | 6 zero | 7-8 unit
// | 9 kept ... 11 kept.
sim::Scenario Example() {
  std::vector<sim::Change> changes(6);
  changes[0].type = changes[1].type = cow::OpType::kCopy;
  changes[0].new_block = 1;
  changes[0].source_bytes = 5 * kBlockBytes;
  changes[1].new_block = 2;
  changes[1].source_bytes = 6 * kBlockBytes;
  changes[2].new_block = 3;
  changes[3].new_block = 4;
  changes[4].new_block = 6;
  changes[5].type = cow::OpType::kReplace;
  changes[5].new_block = 7;
  changes[5].span_log2 = 1;
  changes[5].data.assign(2 * kBlockBytes, 'r');
  sim::Rng rng(1);
  sim::LayoutOptions layout;
  layout.scratch = true;
  layout.span_log2_max = 1;
  return sim::Build(sim::NumberedBlocks(12, 1), changes, layout, &rng);
}

class MergeViewTest : public testing::Test {
 protected:
  // `file` as it is found with this counter, state and staged blocks.
  void Load(uint64_t merged_ops, std::vector<uint32_t> staged = {}) {
    std::vector<uint8_t> file = Example().cow;
    if (!staged.empty()) {
      cow::EncodeScratchMetadata(cow::Header(), staged.data(),
                                 static_cast<uint32_t>(staged.size()),
                                 file.data() + cow::kHeaderBytesV3 + 1);
    }
    cow::EncodeProgress(cow::Header(), merged_ops,
                        staged.empty() ? cow::ScratchState::kInProgress
                                       : cow::ScratchState::kWindowStaged,
                        file.data());
    cow::Loader loader(file.size());
    while (!loader.done()) {
      const cow::Loader::Want want = loader.want();
      const absl::Status status =
          loader.Feed({file.data() + want.offset, want.bytes});
      ASSERT_TRUE(status.ok()) << status.message();
    }
    image_ = loader.Take();
    engine_ = std::make_unique<Engine>(*image_, 12 * kBlockBytes, file.size(),
                                       Engine::Options());
    view_ = std::make_unique<View>(*image_, *engine_);
  }

  void Expect(uint32_t block, Where where, uint32_t blocks) {
    const Piece piece = view_->Lookup(block, 100);
    EXPECT_EQ(piece.where, where) << "block " << block;
    // The last run goes on as far as it is asked for.
    EXPECT_EQ(std::min(piece.blocks, 12 - block), blocks) << "block " << block;
  }

  std::unique_ptr<cow::Image> image_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<View> view_;
};

TEST_F(MergeViewTest, BeforeTheMerge) {
  Load(0);
  Expect(0, Where::kBase, 1);
  Expect(1, Where::kCopy, 2);
  Expect(2, Where::kCopy, 1);
  Expect(3, Where::kZero, 2);
  Expect(5, Where::kBase, 1);
  Expect(6, Where::kZero, 1);
  Expect(7, Where::kUnit, 2);
  Expect(8, Where::kUnit, 1);
  Expect(9, Where::kBase, 3);
  EXPECT_EQ(view_->Lookup(1, 100).op, 0u);
  EXPECT_EQ(view_->Lookup(2, 100).op, 1u);
  EXPECT_EQ(view_->Lookup(2, 100).position, 1u);
  EXPECT_EQ(view_->Lookup(8, 100).op, 5u);
  EXPECT_EQ(view_->Lookup(8, 100).unit_block, 1u);
  EXPECT_EQ(view_->Lookup(8, 100).new_block, 7u);
  EXPECT_EQ(view_->Lookup(9, 100).offset, 9u * kBlockBytes);
}

TEST_F(MergeViewTest, RunsEndWhereTheyAreAskedTo) {
  Load(0);
  EXPECT_EQ(view_->Lookup(1, 1).blocks, 1u);
  EXPECT_EQ(view_->Lookup(7, 1).blocks, 1u);
  EXPECT_EQ(view_->Lookup(9, 2).blocks, 2u);
}

TEST_F(MergeViewTest, MergedBlocksAreInTheBase) {
  Load(3);
  Expect(0, Where::kBase, 4);
  Expect(4, Where::kZero, 1);
  Load(6);
  Expect(0, Where::kBase, 12);
  EXPECT_EQ(engine_->state(), Engine::State::kDone);
}

TEST_F(MergeViewTest, AStagedWindowIsInScratch) {
  Load(0, {1, 2});
  Expect(0, Where::kBase, 1);
  Expect(1, Where::kScratch, 2);
  EXPECT_EQ(view_->Lookup(2, 1).offset, cow::Header().ScratchDataOffset(1));
  Expect(3, Where::kZero, 2);
}

// Adjacent blocks whose data is not adjacent are two pieces.
TEST_F(MergeViewTest, AStagedWindowInAnotherOrder) {
  Load(0, {2, 1});
  Expect(1, Where::kScratch, 1);
  EXPECT_EQ(view_->Lookup(1, 1).offset, cow::Header().ScratchDataOffset(1));
  Expect(2, Where::kScratch, 1);
}

TEST_F(MergeViewTest, ACommittedWindowIsInTheBase) {
  Load(2, {1, 2});
  Expect(0, Where::kBase, 3);
}

// Which place of the merge order these fit is unknown, but whoever wrote them
// meant them to be read.
TEST_F(MergeViewTest, AScratchRegionThatFitsNothingIsRead) {
  Load(1, {10, 8});
  Expect(7, Where::kUnit, 1);
  Expect(8, Where::kScratch, 1);
  Expect(9, Where::kBase, 1);
  Expect(10, Where::kScratch, 1);
  Expect(11, Where::kBase, 1);
}

TEST_F(MergeViewTest, MergedBytesAreCountedInSteps) {
  const uint64_t expected[] = {0, 1, 2, 3, 4, 5, 7};
  for (uint64_t merged_ops = 0; merged_ops <= 6; ++merged_ops) {
    Load(merged_ops);
    MergedBytes counter(image_->index, merged_ops);
    while (!counter.Step(2)) {
    }
    EXPECT_EQ(counter.bytes(), expected[merged_ops] * kBlockBytes);
  }
}

}  // namespace
}  // namespace dmu::merge
