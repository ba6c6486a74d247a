#!/bin/sh
# SPDX-License-Identifier: MIT
# Prints how to link liburing: its static archive where there is one, else the shared library.
dir=$(pkg-config --variable=libdir liburing)
if [ -e "$dir/liburing.a" ]; then echo "$dir/liburing.a"; else pkg-config --libs liburing; fi
