# SPDX-License-Identifier: GPL-2.0
#
# The plot of bench/demo, which sets out, data, title and about. A panel reads
# one block of data: label, nopin / pin, registered / pin, registered without pins
# / pin, least and greatest nopin / pin; "?" where there is none.

if (out[strlen(out) - 3:] eq ".svg") {
	set terminal svg size 1200,900 font "sans,10" fontscale 1.3 background "white"
} else {
	set terminal pngcairo size 1200,900 font "sans,10"
}
set output out
set datafile missing "?"

set style fill solid 1.0 noborder
set boxwidth 0.27
set border 3 lc rgb "#555555"
set tics nomirror out scale 0.5
set xtics scale 0 noenhanced
set grid ytics lc rgb "#dddddd" lt 1
unset key
set ylabel "IOPS relative to pin" offset 1

nopin = "#2b6ca3"
registered = "#c9a24a"
both = "#6fa8dc"
pin = "#aa3333"

set multiplot layout 2,2 margins 0.055,0.985,0.095,0.835 spacing 0.065,0.15
set label 1 title at screen 0.5,0.972 center font ",16"
set label 2 about at screen 0.5,0.942 center tc rgb "#444444"
set object 1 rectangle from screen 0.26,0.896 to screen 0.275,0.912 fc rgb nopin fs solid noborder
set label 3 "nopin" at screen 0.28,0.904 left
set object 2 rectangle from screen 0.34,0.896 to screen 0.355,0.912 fc rgb registered fs solid noborder
set label 4 "registered io\\_uring buffers, pinned once" at screen 0.36,0.904 left
set object 3 rectangle from screen 0.61,0.896 to screen 0.625,0.912 fc rgb both fs solid noborder
set label 5 "registered, nopin" at screen 0.63,0.904 left
set arrow 1 from screen 0.76,0.904 to screen 0.775,0.904 nohead lw 1.5 lc rgb pin
set label 6 "pin" at screen 0.78,0.904 left

size = "4 64 1"
unit = "KiB KiB MiB"

do for [i = 1:3] {
	b = i - 1
	set xrange [*:*]
	set yrange [*:*]
	stats data index b using 2 nooutput
	top = STATS_max
	n = STATS_records
	do for [c = 3:4] {
		stats data index b using c nooutput
		if (STATS_records > 0) { top = top > STATS_max ? top : STATS_max }
	}
	set title sprintf("%s %s on null\\_blk, instruction counts", word(size, i), word(unit, i)) font ",12"
	set xrange [-0.6:n - 0.4]
	set yrange [0:top * 1.25]
	# Alone in the middle, or on the left of three
	at(x, reg) = valid(3) ? x + reg : x
	plot data index b using 0:(0):xtic(1) with dots lc rgb "white", \
		"" index b using (at($0, -0.28)):2 with boxes lc rgb nopin, \
		"" index b using 0:3 with boxes lc rgb registered, \
		"" index b using ($0 + 0.28):4 with boxes lc rgb both, \
		1 with lines lw 1.5 lc rgb pin, \
		"" index b using (at($0, -0.28)):2:(sprintf("%.2f", $2)) with labels rotate left offset 0,0.4 font ",8", \
		"" index b using 0:3:(valid(3) ? sprintf("%.2f", $3) : "") with labels rotate left offset 0,0.4 font ",8", \
		"" index b using ($0 + 0.28):4:(valid(4) ? sprintf("%.2f", $4) : "") with labels rotate left offset 0,0.4 font ",8"
	unset label
	unset object
	unset arrow
}

set xrange [*:*]
set yrange [*:*]
stats data index 3 using 2 nooutput
n = STATS_records
# On a busy machine the greatest may be off the scale
top = 1.7 * (STATS_max > 1 ? STATS_max : 1)
least(a, b) = a < b ? a : b
set title "XFS on NVMe, wall clock: median, least, greatest" font ",12"
set xrange [-0.6:n - 0.4]
set yrange [0:top]
plot data index 3 using 0:2:xtic(1) with boxes lc rgb nopin, \
	"" index 3 using 0:5:(0):(least($6, top) - $5) with vectors nohead lw 1.5 lc rgb "#222222", \
	1 with lines lw 1.5 lc rgb pin, \
	"" index 3 using 0:(least($6, 0.93 * top)):(sprintf("  %.2f", $2)) with labels left offset 0,0.6 font ",9"
unset multiplot
