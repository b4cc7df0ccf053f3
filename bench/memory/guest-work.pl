#!/usr/bin/perl
# SPDX-License-Identifier: BSD-2-Clause
# What a benchmark guest holds in memory: words counted and sorted, of a text that depends on its seed.
use strict;
use warnings;

srand($ARGV[0]);
my @letters = ('a' .. 'z');
my @words = map { join '', map { $letters[rand 26] } 1 .. 3 + int rand 7 } 1 .. 4000;
my @lines = map { join ' ', map { $words[rand @words] } 1 .. 12 } 1 .. 30000;
my (%count, %where);
for my $n (0 .. $#lines) {
    for my $w (split / /, $lines[$n]) {
        $count{$w}++;
        push @{$where{$w}}, $n;
    }
}
my @sorted = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
open my $out, '>', '/tmp/text' or die;
print $out "$_\n" for @lines;
close $out;
open my $ready, '>', '/tmp/ready' or die;
close $ready;
sleep 3600 while 1;
