-- SPDX-License-Identifier: BSD-2-Clause
-- Work for LuaJIT's compiler: traces that are made, left by side exits, patched and thrown away.
-- Nothing that is printed depends on time, addresses or the order of a table.
local bit = require("bit")

local function sieve(n)
    local composite, count = {}, 0
    for i = 2, n do
        if not composite[i] then
            count = count + 1
            for k = i * i, n, i do composite[k] = true end
        end
    end
    return count
end

local function mandelbrot(n)
    local sum = 0
    for y = 0, n - 1 do
        for x = 0, n - 1 do
            local cr, ci, zr, zi, k = 2.0 * x / n - 1.5, 2.0 * y / n - 1.0, 0, 0, 0
            while k < 50 and zr * zr + zi * zi < 4 do
                zr, zi, k = zr * zr - zi * zi + cr, 2 * zr * zi + ci, k + 1
            end
            sum = sum + k
        end
    end
    return sum
end

local function hash(n)
    local h = 0x811c9dc5
    for i = 1, n do
        h = bit.bxor(h, bit.band(i * 7, 255))
        h = bit.tobit(bit.lshift(h, 5) + bit.ror(h, 3) + i)
    end
    return bit.tohex(h)
end

-- Types change while traces for the old ones run.
local function mixed(n)
    local total, text = 0, {}
    for i = 1, n do
        local v = i
        if i % 97 == 0 then v = tostring(i) elseif i % 31 == 0 then v = i + 0.5 end
        if type(v) == "string" then text[#text + 1] = v else total = total + v end
    end
    return total, #table.concat(text)
end

-- New functions all the time: code memory of the compiler is filled and flushed.
local function generated(n)
    local sum = 0
    for i = 1, n do
        local f = loadstring(string.format(
            "local a = ... for k = 1, 200 do a = (a * %d + k) %% 65521 end return a", i % 251 + 2))
        sum = (sum + f(i)) % 1000003
    end
    return sum
end

local function coroutines(n)
    local co = coroutine.wrap(function()
        local a, b = 0, 1
        while true do
            coroutine.yield(a)
            a, b = b, (a + b) % 1000007
        end
    end)
    local sum = 0
    for _ = 1, n do sum = (sum + co()) % 1000007 end
    return sum
end

local function sorted(n)
    local t, x = {}, 42
    for i = 1, n do
        x = (x * 1103515245 + 12345) % 2147483648
        t[i] = x
    end
    table.sort(t, function(a, b) return a > b end)
    return t[1], t[math.floor(n / 2)], t[n]
end

print("sieve", sieve(300000))
print("mandelbrot", mandelbrot(160))
print("hash", hash(3000000))
print("mixed", mixed(400000))
print("generated", generated(4000))
print("coroutines", coroutines(200000))
print("sorted", sorted(60000))
for round = 1, 5 do
    jit.flush()
    print("after flush", round, sieve(20000), hash(20000 + round))
end
local ok, message = pcall(function() local t = nil; return t.x end)
print(ok, (message:gsub("^.-:", "")))
