-- Reaps expired leases and promotes delayed jobs, by the server's own clock. ARGV: limit, for
-- how many ms leases are spared after Redis was away, for how many ms more because the caller could
-- not reach it.
-- Returns the number of jobs that became ready, when the next one is due (-1: none), and the
-- server's time.
local now = clock()
local ready, due = sweep(now, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
return { ready, due, now }
