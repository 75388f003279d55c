-- Removes jobs whose hash has expired from the listings. ARGV: the token whose listing they are in as well, or nothing,
-- and ids. Other jobs stay, so that the index prevents a second submit.
-- Returns the number of removed jobs.
local owner, removed = ARGV[2], 0
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('EXISTS', status(id)) == 0 then
    redis.call('ZREM', index, id)
    redis.call('ZREM', dead, id)
    redis.call('ZREM', cancelled, id)
    if owner ~= '' then redis.call('ZREM', of_token('index', owner), id) end
    removed = removed + 1
  end
end
return removed
