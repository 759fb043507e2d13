package raftnode

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestJudge: whoever is called odd differs from a hash that a majority of all voters holds, and everybody who is known to differ from
// that is called odd; without such a hash nobody is.
func TestJudge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		witnesses := make([]witness, rapid.IntRange(0, 7).Draw(t, "peers"))
		voters := 0
		for i := range witnesses {
			witnesses[i] = witness{
				id: string(rune('a' + i)), votes: rapid.Bool().Draw(t, "votes"), known: rapid.Bool().Draw(t, "known"),
				hash: rapid.Uint64Range(1, 3).Draw(t, "hash"),
			}
			if witnesses[i].votes {
				voters++
			}
		}
		odd, v := judge(witnesses)
		holders := func(hash uint64) (all, votes int) {
			for _, w := range witnesses {
				if w.known && w.hash == hash {
					all++
					if w.votes {
						votes++
					}
				}
			}
			return all, votes
		}
		var winner uint64
		kinds := 0
		for hash := uint64(1); hash <= 3; hash++ {
			all, votes := holders(hash)
			if all > 0 {
				kinds++
			}
			if 2*votes > voters {
				winner = hash
			}
		}
		want := agreed
		if kinds > 1 && winner != 0 {
			want = decided
		} else if kinds > 1 {
			want = split
		}
		if v != want {
			t.Fatalf("verdict %d, want %d: %+v", v, want, witnesses)
		}
		for _, w := range witnesses {
			if blamed := slices.Contains(odd, w.id); blamed != (v == decided && w.known && w.hash != winner) {
				t.Fatalf("%s blamed: %v: %+v", w.id, blamed, witnesses)
			}
		}
	})
}
