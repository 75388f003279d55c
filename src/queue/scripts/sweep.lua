-- Reaps expired leases and promotes delayed jobs. ARGV: limit. By the server's own clock.
-- Returns how many jobs became ready, when the next is due (-1: none), and the clock.
local now = clock()
local ready, due = sweep(now, tonumber(ARGV[2]))
return { ready, due, now }
