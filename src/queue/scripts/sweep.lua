-- Reaps expired leases and promotes delayed jobs, by the server's own clock. ARGV: limit.
-- Returns the number of jobs that became ready, when the next one is due (-1: none), and the
-- server's time.
local now = clock()
local ready, due = sweep(now, tonumber(ARGV[2]))
return { ready, due, now }
