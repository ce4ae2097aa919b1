%% Methods that change while a protocol serves count from then on: of its class, of the instance, of another class.
-module(changes_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-import(reactor_test, [serving/3, client/2, send/2, expect/2]).

-include("reactor_suite.hrl").

groups() ->
    reactor_test:backend_groups([
        another_class,
        a_write_ready_of_the_instance,
        a_write_of_the_instance,
        a_patched_class,
        a_patched_base_class,
        an_attribute_that_code_decides_about,
        another_connection_is_not_concerned,
        other_attributes,
        an_instance_without_attributes_gets_no_dict,
        a_datagram_received_of_the_instance,
        a_datagram_received_from_the_beginning,
        another_class_on_a_datagram_socket
    ]).

%% What is sent, and what comes.
dialogue(Config, Factory, Lines) ->
    serving(Config, Factory, fun(Context) ->
        {Client, _} = client(Context, Config),
        [
            begin
                send(Client, Line),
                expect(Client, Answer)
            end
         || {Line, Answer} <- Lines
        ]
    end).

another_class(Config) ->
    dialogue(Config, "changes.Plain", [
        {"nothing", "x"}, {"other_class", "<x>"}, {"nothing", "<x>"}, {"plain_again", "x"}, {"nothing", "x"}
    ]).

a_write_ready_of_the_instance(Config) ->
    [
        dialogue(Config, "changes.Plain", [
            {"nothing", "x"}, {How, "[x]"}, {"nothing", "[x]"}, {"without_own_write_ready", "x"}, {"nothing", "x"}
        ])
     || How <- ["own_write_ready", "own_write_ready_by_object", "own_write_ready_by_dict"]
    ].

a_write_of_the_instance(Config) ->
    dialogue(Config, "changes.Plain", [{"nothing", "x"}, {"own_write", "xx"}, {"nothing", "xx"}]).

a_patched_class(Config) ->
    dialogue(Config, "changes.Plain", [
        {"nothing", "x"}, {"patched_class", "<x>"}, {"nothing", "<x>"}, {"unpatched_class", "x"}, {"nothing", "x"}
    ]).

a_patched_base_class(Config) ->
    dialogue(Config, "changes.Plain", [
        {"nothing", "x"}, {"patched_base", "<x>"}, {"nothing", "<x>"}, {"unpatched_base", "x"}, {"nothing", "x"}
    ]).

an_attribute_that_code_decides_about(Config) ->
    dialogue(Config, "changes.Decides", [{"nothing", "x"}, {"decide", "[x]"}, {"nothing", "[x]"}, {"decide", "x"}]).

another_connection_is_not_concerned(Config) ->
    serving(Config, "changes.Plain", fun(Context) ->
        {One, _} = client(Context, Config),
        {Two, _} = client(Context, Config),
        [
            begin
                send(Client, Line),
                expect(Client, Answer)
            end
         || {Client, Line, Answer} <- [
                {One, "nothing", "x"}, {Two, "own_write_ready", "[x]"}, {One, "nothing", "x"}, {Two, "nothing", "[x]"},
                {One, "own_write_ready", "[x]"}, {Two, "without_own_write_ready", "x"}, {One, "nothing", "[x]"}
            ]
        ]
    end).

%% Few, and so many that they get a dict.
other_attributes(Config) ->
    dialogue(Config, "changes.Plain", [
        {"some_attributes", "x"}, {"nothing", "x"}, {"own_write_ready", "[x]"}, {"without_own_write_ready", "x"},
        {"many_attributes", "x"}, {"nothing", "x"}, {"own_write_ready", "[x]"}, {"without_own_write_ready", "x"}
    ]).

%% It would be memory for each connection.
an_instance_without_attributes_gets_no_dict(Config) ->
    dialogue(Config, "changes.Bare", [{"look", "none"}, {"look", "none"}, {"make", "made"}]).

datagrams(Config, Factory, Lines) ->
    serving(Config, Factory, fun(Context) ->
        Options = [binary, {active, false}, {ip, {127, 0, 0, 1}}],
        {ok, Socket} = gen_udp:open(0, Options),
        {ok, Port} = inet:port(Socket),
        ok = py_reactor_context:handoff(Context, Socket, #{type => udp}),
        {ok, Asker} = gen_udp:open(0, Options),
        {ok, AskerPort} = inet:port(Asker),
        [
            begin
                ok = gen_udp:send(Asker, {127, 0, 0, 1}, Port, Line),
                {ok, {_, Port, Answer}} = gen_udp:recv(Asker, 0, 30000),
                ?assertEqual({Line, iolist_to_binary(io_lib:format(Expected, [AskerPort || $~ <- Expected]))}, {Line, Answer})
            end
         || {Line, Expected} <- Lines
        ]
    end).

a_datagram_received_of_the_instance(Config) ->
    datagrams(Config, "changes.Datagrams", [
        {"1", "data"}, {"own", "data"}, {"2", "addressed ~b"}, {"not", "addressed ~b"}, {"3", "data"}
    ]).

a_datagram_received_from_the_beginning(Config) ->
    datagrams(Config, "changes.FromTheBeginning", [{"1", "addressed ~b"}, {"2", "addressed ~b"}]).

another_class_on_a_datagram_socket(Config) ->
    datagrams(Config, "changes.Datagrams", [{"1", "data"}, {"class", "data"}, {"2", "addressed ~b"}]).
